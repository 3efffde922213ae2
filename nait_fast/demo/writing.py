"""Poems, messages and other writing tasks for the demo's pool, in the format that material.parse reads."""

TEXT = """\
Q: Write a four-line poem about the first snow.
A: The street has gone quiet, the rooftops are white,
| a fox leaves its signature over the lawn;
| the lamps wear small halos all through the night,
| and nobody wants to be first at dawn.

Q: Draft a short e-mail asking a colleague to cover my shift on Friday.
A: Hi Nadia,
| could you take my Friday shift from two to six? My son has a school play, and I'd hate to miss it. I'll gladly take
one of yours next week in return.
| Thanks, Marco

Q: Compose a product description for a handmade ceramic mug.
A: Thrown by hand and glazed in the blue of early evening, this mug keeps your tea warm and your fingers happy. Every
piece differs slightly in shape, so yours will be one of a kind. Safe in the dishwasher, too.

Q: Write a haiku about a broken build on a Friday afternoon.
A: Red light in the queue.
| One semicolon too few.
| The weekend can wait.

Q: Give me the opening sentence of a detective story set in a bakery.
A: When the flour settled, there were eleven croissants on the tray, one baker on the floor, and a single buttery
fingerprint on the till.

Q: Create a slogan for a company that repairs bicycles.
A: "Your bike back on the road, and a smile back on the rider."

Q: Please write a thank-you note to a teacher who is retiring.
A: Dear Mrs Okafor, thank you for thirty years of patience and terrible puns. You taught us to read closely and to
laugh at ourselves. We hope that the mornings ahead are long and the bell is silent. With love, your old class 7b.

Q: Describe an old lighthouse in three atmospheric sentences.
A: The lighthouse leaned a little towards the sea, as if it were hard of hearing. Salt had eaten its paint down to the
stone, and gulls held noisy council on the railing. Yet every night at dusk the lamp coughed, blinked, and went back to
work.

Q: I need an apology letter to a customer whose parcel came late.
A: Dear Mr Lindqvist, your parcel should have reached you on the 3rd and came on the 12th. That was our mistake, and we
are sorry for it. We have refunded the shipping costs and added a voucher for your next order. Kind regards, the
service team

Q: Write a limerick about a programmer.
A: A coder who lived on iced tea
| wrote loops that ran endlessly free;
| when asked for the cause,
| he said without pause,
| "It works on my laptop, you see."

Q: Invent a bedtime story of about sixty words about a brave snail.
A: Once a snail named Pim decided to visit the moon. Every night he climbed the garden wall, a little higher each time.
When at last he reached the top, the moon lay shining in the rain barrel below. "So close!" said Pim, and he slid down
to say good night. He has been its neighbour ever since.

Q: Write an invitation to a neighbourhood barbecue.
A: Dear neighbours, the grill is clean, the weather forecast is bold, and we have far too many sausages. Join us in the
courtyard on Saturday from five o'clock. Bring a chair and a salad, or just yourselves. Ana and Joel, second floor

Q: Make up a fairy-tale beginning with a clockmaker.
A: In a town where it was always ten to four lived a clockmaker who had never sold a clock. Nobody needed one, and
nobody was ever late. But one morning a stranger came in and asked, quite politely, for five minutes.

Q: Write a two-sentence horror story about a phone.
A: At midnight my phone lit up with a photograph of me asleep. I live alone, and the picture was taken from above.

Q: Compose a birthday greeting for a colleague who loves spreadsheets.
A: Happy birthday! May your year be free of circular references, your columns always align, and your cake be divided
into equal cells. The sum of our wishes: the very best.

Q: Put together a cover letter opening for a job at a plant nursery.
A: Dear Ms Fontaine, I have kept a lemon tree alive in a basement flat for six years, and I would like to do the same
for your seedlings in proper light. Three summers in my uncle's greenhouse taught me pruning, patience and how to talk
to customers.

Q: Write a poem in which an old library speaks.
A: I hold my breath between the shelves
| for readers who forget themselves;
| I know their sighs, I know their feet,
| the one who whispers, those who eat.
| Bring back my stories when you're through:
| I've kept a quiet place for you.

Q: Describe the taste of a lemon to someone who has never eaten one.
A: It begins bright, like a window thrown open in winter. Then your cheeks pull inwards, your eyes narrow, and for a
second you can think of nothing else. Afterwards the mouth feels washed clean.

Q: Write a tweet announcing the release of a note-taking app.
A: It's here! Fern, the note-taking app that stays out of your way, is available today. It works offline, it syncs in
seconds, and it never asks how you feel about tables. Go and plant your first thought.

Q: Draft a polite refusal of a wedding invitation.
A: Dear Elif and Tom, thank you so much for inviting us. To our regret we shall be abroad that week and cannot come. We
will raise a glass to you from afar and hope to hear every detail when we are back. Love, Ruth and Ben

Q: Write a monologue for an umbrella that was left on a train.
A: He will come back. He always pats his pockets on the platform. True, this is the fourth station. True, a child is
drawing on me. But it will rain tonight, I can feel it in my ribs, and then he will remember who stood above him all
those years.

Q: Give me a catchy headline and one line of text for a pop-up tea shop.
A: Steep Thoughts. Forty kinds of tea, one tiny shop, here until the leaves run out.

Q: Write a scene where two strangers share a bench in the rain.
A: "Is it taken?" he asked, pointing to the wet half of the bench. "Only by the puddle," she said. He sat down in it.
For a while they both watched the pigeons pretending not to mind. Then, without a word, she tilted her umbrella by an
inch.

Q: Compose a short speech for opening a village swimming pool.
A: Dear friends, for eight years we collected money, signed petitions and swam in the cold river. Today all that is
over, apart from the cold. I thank everybody who dug, paid and argued. And now I'll stop talking, because the children
are already counting down.

Q: Write an acrostic on the word CODE.
A: Careful hands arrange the signs,
| Order grows from stubborn lines,
| Doubt arrives, is tested, leaves;
| Each small fix is what one weaves.

Q: Write a complaint about a noisy hotel room, firm but friendly.
A: Dear Sir or Madam, room 214 was clean and the staff were charming. Sadly, the ventilation below the window roared
from ten at night until six in the morning. I would be grateful for a partial refund and hope that you will warn other
guests. Yours faithfully, D. Moreau

Q: Invent a legend that explains why the sea is never still.
A: Long ago the sea lent the moon a silver comb. The moon forgot to give it back. Since then the sea climbs the shore
twice a day and stretches out its hands, and twice a day it is told to come back tomorrow.

Q: Write an advertisement for a second-hand piano.
A: For sale: an upright piano, eighty years old, one owner, two hundred children's hands. The low E sighs a little. It
knows all of Chopin's easy pieces and deserves a family that will forgive wrong notes. Collect it yourselves and bring
three strong friends.

Q: Please write a love poem to coffee in six short lines.
A: Before the news,
| before the shoes,
| before I know my name,
| you rise in steam,
| dissolve the dream,
| and call me to the game.

Q: Write a farewell message to the team on my last day.
A: Dear all, after four years, 212 stand-up meetings and one memorable fire alarm, today is my last day. You have been
clever, kind and funny, often at once. Please keep in touch, and look after my cactus. Yours, Ilse

Q: Describe a busy market for a travel blog.
A: By nine the alleys are full of elbows and cinnamon. A man sings the price of oranges, a woman weighs olives with one
hand and pours tea with the other, and somewhere a rooster objects to everything. Come hungry, and keep small coins in
your pocket.

Q: Write a dialogue between the sun and the moon at an eclipse.
A: "You're in my light," said the sun. "For once," the moon replied. "How does it feel to have everyone look at you?"
asked the sun. "Warm," said the moon. "And a bit like borrowing your coat." The sun laughed, and a thin ring of gold
ran round the dark.

Q: Compose a review of an imaginary restaurant that only serves soup.
A: At The Deep Spoon you choose nothing but the size of your bowl. Mine held a smoky carrot soup with orange, then a
clear broth so good that the table fell silent. The bread is free, the chairs are not comfortable, and I'll be back on
Thursday.

Q: Write a rhyme to help children remember to wash their hands.
A: Splash and bubble, front and back,
| thumbs and nails, the whole fun pack;
| count to twenty, rinse them clean,
| the shiniest hands you've ever seen!

Q: Write a mission statement for a small robotics club.
A: We build machines that are slightly too ambitious, from parts that are slightly too cheap, with people who are never
too young to ask why. Everyone solders, everyone codes, everyone sweeps the floor.

Q: Start a science-fiction story with the words "The last tree".
A: The last tree stood on deck nine, under a lamp that pretended to be June. Officially it was a museum piece. But
every night the crew came one by one, laid a hand on the bark, and told it what the weather would have been.

Q: Draft a reminder to members that the yearly fee of $25 is due.
A: Dear members, a new season is starting, and so is the least poetic part of it: the yearly fee of $25 is due by the
end of March. It pays for balls, nets and the famous biscuits. Thank you for keeping the club alive!

Q: Write a metaphor-rich paragraph about learning to code.
A: Learning to code is moving to a country whose citizens take every word literally. At first you point and stammer.
Then one evening you order a meal, it arrives exactly as you said it, and you discover that you had asked for a raw
potato.

Q: Write a speech bubble for a lazy superhero.
A: "Fear not, citizens! I'll save you right after this episode. And could somebody please bring the villain closer?"

Q: Compose a lullaby for a tired robot.
A: Hush now, your fans may slow and stop,
| your little lights go dim;
| the charger hums beside the shop,
| the world is full to the brim.
| No task, no bug, no beeping sound:
| tomorrow's battery comes around.

Q: Turn the idea below into the first lines of a children's book.
I: A bear who is afraid of honey.
A: All bears love honey. Everybody knows that. Everybody except Bruno, who had met a pot of it once, and it had not let
go of his paw for two whole days.

Q: Write a blurb for the back cover of this novel.
I: Title: The Cartographer's Daughter
A: When her father vanishes, Lea inherits a map of a country that does not exist. Then the postcards start to arrive
from its capital. A story about borders, lies, and the courage to walk off the edge of the page.

Q: Rewrite this notice so that it sounds warm and welcoming.
I: No dogs. No bicycles. Closing time 6 p.m.
A: Welcome to our garden! Please let your dog and your bicycle rest at the gate, where there are hooks, shade and a
bowl of water. We are happy to have you with us until six in the evening.

Q: Write a short poem containing all of these words.
I: harbour, lantern, bread, Tuesday
A: On Tuesday, when the boats come in,
| a lantern swings, the night is thin;
| the harbour smells of salt and bread,
| and no one wants to go to bed.

Q: Make this sentence more vivid.
I: The man walked into the cold room.
A: Stamping snow from his boots, the old man shouldered the door open and stepped into a room so cold that his breath
got there before him.

Q: Create a character sketch from these notes.
I: Greta, 71, retired accountant, secret graffiti artist
A: For forty years Greta made numbers behave. Now, at seventy-one, she leaves the house at two in the morning with a
shopping trolley full of spray cans. Her lines are perfectly straight, and her tag is a tiny balance sheet that always
adds up to joy.

Q: Write a resignation letter in five sentences or fewer.
A: Dear Mr Adeyemi, I am resigning from my position as archivist with effect from 30 June. I am grateful for the trust
you placed in me. I will complete the catalogue and train my successor until then. With best wishes, Johanna Beck

Q: Compose a fortune-cookie message for a data scientist.
A: An outlier will visit you soon. Do not delete it; offer it tea.

Q: Write a diary entry by a cat on moving day.
A: The boxes are excellent. Everything else is an outrage. My sofa has been carried off by strangers, and the humans
laugh too loudly. I have hidden in the wardrobe, only to learn that the wardrobe, too, is moving. I shall forgive
nobody before dinner.

Q: Describe a storm without using the word rain.
A: First the washing lines began to hum. Then the light turned the colour of old pewter, a door slammed three gardens
away, and the whole sky came down in ropes. The gutters sang. Within a minute the street was a river that carried a
single yellow boot.

Q: Write a product name and tagline for noise-cancelling slippers.
A: HushPuffs: because the fridge at midnight is nobody else's business.

Q: Write a radio announcement for a lost tortoise.
A: And now a message from Elm Street: Herbert, a tortoise with a white spot on his shell, has been missing since
Tuesday. He was last seen heading north at full speed, so he may have reached number 14. Please check under your
hedges.

Q: Compose a toast for a couple who met at a maths contest.
A: They met over problem number five, and neither of them solved it. Tonight it no longer matters, for they have found
something better: a sum that is greater than its parts. Raise your glasses to Noor and Elias!

Q: Write a short ghost story with a happy ending.
A: The ghost of number nine had rattled chains for a century, and nobody had ever knocked back. Then a drummer moved
in. On the first night he listened, nodded, and tapped an answer on the pipes. They have been playing on Fridays ever
since.

Q: Give me a text message that cancels dinner without hurting feelings.
A: I'm so sorry, but I have to skip tonight; the day has flattened me, and I'd be poor company. May I cook for you on
Sunday instead? I was really looking forward to seeing you.

Q: Write an ode to the number seven.
A: O seven, odd and slender thing,
| with days to give and seas to bring,
| no smaller friend divides you through;
| in tales it's always you who do
| the lucky deed, the final door.
| Good luck to eight; we'll love you more.

Q: Write a funny menu for a restaurant run by cats.
A: Starter: tuna, stared at for 20 minutes, 6.50. Main course: your sandwich, taken when you looked away, 14.00.
Dessert: a glass pushed off the table, 3.00. Service 10%, purring 2.00 extra.

Q: Compose a poster for a village fair on 14 June.
A: Village Fair, Saturday 14 June! 10:00 brass band. 11:30 sack race, ages 6 to 12. 13:00 soup for 300. 15:00 cake
contest, first prize $40. 18:00 dancing until the lamps go out. Tickets $3, under 5s free.

Q: Write a product listing for a desk, including made-up measurements and a price.
A: The Heron desk: solid ash, 120 cm wide, 60 cm deep, 74 cm high. Holds 80 kg, weighs 22 kg, and fits together with 8
screws in 15 minutes. It comes with 2 drawers and a 5-year guarantee. Now $189 instead of $229.

Q: Write a captain's log about a rather boring space journey.
A: Day 412. Distance 3.1 light years, speed unchanged, mood unchanged. At 09:20 we passed a rock. At 14:05 we discussed
the rock. The cook served meal 7 for the 58th time. The 6 of us voted on a name for the rock: Kevin won by 4 to 2.

Q: Write a short breathless sports report about a made-up match.
A: What a final! After 12 minutes the Otters led 2-0, at half-time it was 2-2, and in the 88th minute number 9, aged
just 17, headed the ball in from 11 metres. 3-2! The 4,200 fans sang for 30 minutes after the whistle.
"""
