"""Short paragraphs with one-sentence summaries for the demo's pool, in the format that material.parse reads."""

TEXT = """\
I: The town council has voted to close the market square to cars from April. Shop owners fear that customers will stay
away, while parents and cyclists welcome the plan. The rule will be reviewed after one year.
A: From April the market square will be car-free for a trial year, which worries shop owners but pleases parents and
cyclists.

I: Octopuses can taste with their suckers. Each arm carries hundreds of them, and the nerve cells inside can decide to
grip or let go without waiting for the brain. An arm may therefore explore a crevice almost on its own.
A: Octopus arms can taste, and act largely on their own, thanks to nerve cells in their suckers.

I: On Tuesday a software update disabled the ticket machines of a railway company for five hours. Staff let passengers
travel free of charge. Engineers traced the fault to a single missing line in a configuration file and have added a
test for it.
A: A missing configuration line stopped the ticket machines for five hours on Tuesday, so passengers travelled free.

I: When Mira inherited her uncle's vineyard, she knew nothing about grapes. She worked a season beside the oldest
picker in the valley, took evening classes in chemistry, and sold her first bottles in the third year. Today she
exports to six countries.
A: Mira inherited a vineyard as a beginner, learned the craft patiently, and now exports wine to six countries.

I: Sourdough bread rises without baker's yeast. A starter of flour and water collects wild yeasts and bacteria, which
make gas and acid. The acid gives the bread its flavour and helps it keep longer than ordinary loaves.
A: Sourdough uses wild yeasts and bacteria from a starter, which make it rise, give it flavour and keep it fresh
longer.

I: A survey of 1,200 commuters found that those who cycle arrive in a better mood than drivers, even in bad weather.
Train passengers were in between. The authors warn that cheerful people may simply be more likely to cycle.
A: Cycling commuters arrive happier than drivers in a survey, though cheerful people may just cycle more.

I: The museum's new wing holds four hundred clocks, from water clocks to atomic ones. Visitors may wind some of them.
The curators decided not to synchronise the clocks, so something is always striking.
A: The museum's new wing shows four hundred deliberately unsynchronised clocks, some of which visitors may wind.

I: Many beginners think that good programmers write code quickly. In practice most of their time goes into reading
existing code, asking what the users need, and deleting what is no longer used. Typing is the smallest part of the job.
A: Programmers spend most of their time reading, asking and deleting rather than typing new code.

I: Last summer the reservoir fell to a third of its capacity. The city banned lawn watering and repaired 90 leaking
pipes. By November consumption had dropped by 18 percent, and the reservoir was half full again.
A: After a drought, water restrictions and pipe repairs cut consumption by 18 percent and let the reservoir recover to
half.

I: Puffins spend the winter far out at sea, alone. In spring they return to the same burrow and usually to the same
partner. Pairs greet each other by rubbing their bright beaks together.
A: Puffins winter alone at sea but return each spring to the same burrow and partner.

I: The company will allow its staff to work from any country for up to eight weeks a year. Managers must agree
beforehand, and employees stay responsible for their own insurance. The policy starts in January.
A: From January staff may work abroad for up to eight weeks a year, with their manager's consent and their own
insurance.

I: I planted two rows of beans this year. The ones beside the marigolds grew without any trouble, whereas aphids
covered the ones beside the fence. Next year there will be marigolds everywhere.
A: Beans beside marigolds stayed free of aphids, so the gardener will plant marigolds everywhere next year.

I: Glass is made by melting sand with soda and lime at about 1,500 degrees. The soda lowers the melting point, and the
lime makes the glass durable. Without lime it would slowly dissolve in water.
A: Glass is melted from sand with soda, which lowers the melting point, and lime, which makes it durable.

I: Two brothers opened a cinema in an empty church. They kept the pews, put the screen where the altar had been, and
sell popcorn from the confessional. The bishop attended the first showing and is said to have laughed.
A: Two brothers turned an empty church into a cinema, apparently with the bishop's good-humoured approval.

I: Sleep researchers asked students to learn a list of words either in the morning or at night. Twelve hours later
those who had slept in between recalled more words. The difference was largest for the hardest words.
A: Students who slept between learning and recall remembered more words, especially the hard ones.

I: The ferry to the island will not run on Sunday because its engine is being replaced. A smaller boat will take foot
passengers at nine and at five. Cars can be left in the harbour car park at no cost.
A: On Sunday only foot passengers can reach the island, by a smaller boat at nine and five, while cars park free in the
harbour.

I: For decades people believed that goldfish forget everything after seconds. Experiments have shown the opposite: they
can learn to press a lever for food and still know it months later. They can even tell pieces of music apart.
A: Contrary to popular belief, goldfish have long memories and can learn tasks.

I: Our choir lost its rehearsal room when the school was renovated. Since then we have sung in a garage, a bakery and
once in a bus shelter. Strangely, we have gained eleven members, all of whom heard us by accident.
A: After losing its room the choir rehearsed in odd places and so gained eleven new members.

I: The new bridge uses steel from an old shipyard. Engineers cut the hull of a tanker into plates, tested each of them,
and welded them into girders. This saved about 40 percent of the cost and 900 tonnes of carbon dioxide.
A: Reusing steel from an old tanker made the new bridge about 40 percent cheaper and saved 900 tonnes of carbon
dioxide.

I: In chess, beginners often move the queen out early because she is the strongest piece. But she can be attacked by
weaker pieces and must then run away. Each time she does so, the opponent gains time to develop.
A: Bringing the queen out early in chess is risky, as she can be chased while the opponent develops.

I: A village in the mountains gets no direct sunlight from November to February. Some years ago a large mirror was set
up on the slope above. A computer turns it through the day so that light falls on the main square.
A: A computer-controlled mirror on the slope brings winter sunlight to a shaded mountain village's square.

I: The author spent a year without buying any clothes. She mended, swapped and borrowed, and noticed how often she used
to shop out of boredom. At the end she had saved 1,100 euros and owned fewer things.
A: After a year without buying clothes, the author had saved 1,100 euros and understood that she had shopped out of
boredom.

I: Some ants grow fungi underground. They cut leaves, chew them to a pulp, and feed it to the fungus, which they eat in
turn. If a young queen leaves the nest, she carries a piece of the fungus in her mouth.
A: Some ants farm fungi on chewed leaves, and young queens take a piece along to found a new garden.

I: The library has abolished late fees. In the first six months, 3,000 overdue books were returned, some of them after
more than ten years. Income fell slightly, but the number of new members doubled.
A: Abolishing late fees brought back 3,000 overdue books and doubled new memberships at little cost to the library.

I: An app that promised to identify mushrooms was withdrawn after it mistook a poisonous species for an edible one.
Nobody was hurt. Experts advise using such programs only to learn, never to decide what to eat.
A: A mushroom app was withdrawn after a dangerous error, and experts say such apps should never decide what people eat.

I: My grandfather kept a diary about the weather for fifty-one years. He rarely mentioned the family. But on the day I
was born, he wrote: fog in the morning, then the clearest sky of the year.
A: A grandfather's weather diary hardly mentions the family, except for a touching hint on the narrator's birthday.

I: The football club sold its best striker for 4 million and used the money for a youth academy. Fans protested for
weeks. Five years later, seven players of the first team come from that academy.
A: Selling its star striker to fund an academy upset the fans but later gave the club seven first-team players.

I: Cork comes from the bark of a Mediterranean oak. It is peeled off by hand every nine years without felling the tree.
A single oak can be harvested for about two centuries.
A: Cork is the bark of an oak that can be peeled every nine years for two centuries without felling the tree.

I: The hospital tested whether plants in the waiting room calm patients. With plants, people complained less about
delays, although they waited just as long. Artificial plants worked nearly as well.
A: Plants in a hospital waiting room, even artificial ones, reduced complaints about waiting.

I: Because the printers went on strike, the newspaper appeared as a single sheet for three days. Readers wrote that
they had never read it so thoroughly. The editors are now thinking about a permanent short edition.
A: A strike forced the paper onto a single sheet, which readers liked so much that a short edition may stay.

I: Volcanic soils are among the most fertile on Earth. Ash contains minerals that plants need, and it breaks down
quickly into soil. That is one reason why people keep settling near dangerous volcanoes.
A: People settle near volcanoes despite the danger, partly because ash makes the soil so fertile.

I: The theatre's new play has no actors. The audience receives letters, reads them aloud in turn, and slowly discovers
that everyone holds a part of the same family story. Some evenings end in tears, others in applause for a stranger.
A: In the theatre's new play the audience itself pieces together a family story by reading letters aloud.

I: Electric buses cost about twice as much as diesel ones. However, they need less maintenance, and power is cheaper
than fuel. The transport office expects them to pay for themselves after nine years in service.
A: Electric buses are dearer to buy than diesel ones but should pay off after nine years through lower running costs.

I: In 1815 the volcano Tambora erupted in what is now Indonesia. Ash in the upper air dimmed the sun, and in the
following summer harvests failed across Europe and North America. 1816 became known as the year without a summer.
A: The 1815 eruption of Tambora cooled the climate and caused the failed harvests of 1816, the year without a summer.

I: We tried three ways of storing carrots: in a plastic bag, in water, and in damp sand. After six weeks those in the
bag were soft and those in water had split. The ones in the sand were crisp.
A: Of three storage methods, only damp sand kept carrots crisp for six weeks.

I: The start-up wanted to sell smart umbrellas that warn their owner of rain. Customers liked the idea but kept leaving
them on buses. The firm now sells the tracking chip alone, and business is good.
A: The start-up's smart umbrellas kept getting lost, so it now succeeds by selling only the tracking chip.

I: Crows in one Japanese city place walnuts on the road when the lights are red. Cars crack the shells as they drive
off. At the next red light, the birds walk over and eat.
A: Crows in a Japanese city let cars crack walnuts for them and use the red lights to collect the food.

I: Teachers at our school no longer give marks in the first two years. Instead they write a letter to every child twice
a year. It takes far longer, they say, but children ask "What can I do better?" rather than "What did you get?"
A: Letters have replaced marks for younger pupils, which costs teachers time but turns children's attention to
improving.

I: The first webcam was pointed at a coffee pot. Researchers in Cambridge were tired of walking to an empty pot, so in
1991 they put a small camera in front of it. Two years later the picture went onto the web.
A: The first webcam was set up by Cambridge researchers in 1991 to show whether there was coffee left.

I: Rents in the old town have risen by a third in five years. Bakers, cobblers and a bookshop have left, and souvenir
shops have taken their place. Residents have now founded a cooperative to buy two houses.
A: Rising rents have driven traditional shops out of the old town, and residents are founding a cooperative in
response.

I: A translator explains that jokes are her hardest task. Word play rarely survives, so she often invents a new joke
that is just as silly. Once an author wrote to say that hers was better.
A: A translator finds jokes hardest and often replaces them with new ones, once to an author's delight.

I: Honey found in ancient tombs is said to be still edible. It contains little water and is acidic, so bacteria can
hardly grow in it. Sealed well, it may last for a very long time.
A: Honey can last extremely long because it is dry and acidic and keeps bacteria from growing.

I: The marathon had to be stopped after two hours because of the heat. Of 8,000 runners, 300 needed medical help,
though none is in danger. Next year it will start at six in the morning.
A: Heat forced the marathon to stop after two hours with 300 runners treated, so next year it will start at six in the
morning.

I: When the old tailor retired, no one wanted his shop. Then three students began to repair outdoor jackets there at
weekends. They now employ the tailor as their teacher, one afternoon per week.
A: Students took over a retired tailor's shop to repair jackets and hired him as their teacher.

I: Many passwords are weak because people must remember dozens of them. A password manager stores them all behind a
single strong one. Security experts consider this far safer than using the same word everywhere.
A: Experts recommend password managers, as people otherwise choose weak passwords or use them repeatedly.

I: The desert appears empty by day. After sunset foxes, geckos and jerboas come out of their burrows, where the
temperature has hardly changed. Most of them never drink, but get their water from food.
A: Desert animals hide in burrows by day, become active at night, and mostly get water from their food.

I: Ella's bakery throws nothing away. Yesterday's bread becomes crumbs, the crumbs become cake, and what is left of the
cake goes to a pig farm. In return the farmer gives her compost for the herbs.
A: Ella's bakery reuses all its leftovers, down to feeding pigs in exchange for compost.

I: A study compared handwritten notes with typed ones. Typists wrote down more, often word for word. Those who wrote by
hand had to choose, and they did better when asked about ideas rather than facts.
A: Typed notes are longer, but people who write by hand select more and understand ideas better.

I: The city's pigeons used to be fed by tourists. Since feeding was banned, their number has halved, and the statues
are clean. Postcard sellers complain that nobody stops at the fountain any longer.
A: A feeding ban halved the pigeons and keeps the statues clean, but postcard sellers miss the tourists.

I: Violin makers prefer spruce that has grown slowly in cold mountains. Its rings are narrow and even, which makes the
wood light and stiff. Some makers knock on the trunks and listen before they choose.
A: Violin makers seek slow-grown mountain spruce because its narrow rings make the wood light and stiff.

I: Last year the swimming club earned $5,200 from fees and $1,900 from its summer party. It spent $6,400 on the pool
and $1,200 on trainers. The committee therefore wants to raise the fees slightly.
A: As the swimming club spent $500 more than it earned last year, its committee wants to raise fees slightly.

I: Night trains are coming back. After years of closures, several railways have ordered new sleeping cars, because more
travellers want to avoid short flights. The main obstacle is a shortage of free tracks.
A: Night trains are returning as travellers avoid short flights, though free tracks are scarce.

I: The painter worked only on Sundays, since he sold insurance during the week. Nobody knew about the pictures until
his landlord found 240 of them in the attic. They now hang in three museums.
A: An insurance salesman's secret Sunday paintings were found in an attic and now hang in museums.

I: Children who grow up with two languages sometimes mix them in a sentence. Parents worry, but linguists see it as a
skill: the children know which word fits best and follow the grammar of both languages.
A: Linguists regard the mixing of two languages by bilingual children as a skill rather than a problem.

I: The island's last shop closed in March. Since then neighbours take turns in sailing to the mainland with a shared
list. It costs a day a month, they report, but they have never talked with each other so much.
A: Since their shop closed, islanders take turns shopping on the mainland, which has brought them closer together.

I: Rust forms when iron meets water and oxygen. Paint keeps both away, but a scratch is enough to start it. Zinc
protects better, because it corrodes first and so spares the iron even where the coating is damaged.
A: Zinc protects iron from rust better than paint because it corrodes first, even where the coating is damaged.
"""
