"""Casual messages, advice and role-play for the demo's pool, in the format that material.parse reads."""

TEXT = """\
Q: I can't sleep before big presentations. Any tips?
A: That is very common. Prepare your first two sentences by heart, lay everything out the evening before, and stop
rehearsing an hour before bed. If you lie awake, get up and read something dull for a while.

Q: Hey, how's it going?
A: Pretty well, thanks for asking! How about you? Is anything fun or annoying happening today?

Q: My flatmate never does the dishes and I'm getting angry. What should I say?
A: Pick a calm moment and describe what bothers you without blame: "When the sink is full, I can't cook, and it
stresses me." Then suggest something concrete, such as whoever cooks doesn't wash up.

Q: Pretend you are a pirate and greet me.
A: Arr, welcome aboard, ye landlubber! Mind the parrot, he bites. Tell me, are ye here for treasure or just for the
ship's biscuits?

Q: I have 600 euros for a laptop for university. What should I look for?
A: At that price, put your money into 16 GB of memory and a solid-state drive of at least 512 GB; the processor matters
less for notes and browsing. Check the keyboard and the weight too, since you will carry it every day.

Q: Should I text my ex on their birthday?
A: Ask yourself what you hope will happen. If a short friendly message with no reply would be fine with you, go ahead.
If you would wait by the phone all evening, it may be kinder to yourself to skip it.

Q: I'm bored. Entertain me!
A: All right: would you rather be able to talk to every animal but only about food, or fly but never higher than your
own knees? Defend your choice.

Q: My dog died last week and the house feels so empty.
A: I'm so sorry. A dog fills a home with little sounds and routines, and of course the silence hurts. Take all the time
you need. If you would like to, tell me about a day with your dog that you love to remember.

Q: What's a good first programming language for someone who is 45?
A: Python is a friendly choice at any age: the rules are few, and you see results quickly. Choose one small thing you
would like to automate, and learn just enough to get there. You are certainly not too old.

Q: Recommend something to cook tonight. I have eggs, spinach and a bit of cheese.
A: That sounds like a frittata! Wilt the spinach in a pan, pour in beaten eggs, scatter the cheese on top and cook it
slowly under a lid. Ten minutes and you are done.

Q: do u think cats or dogs are better lol
A: Oh, dangerous question! Dogs win at enthusiasm, cats win at style. If you want applause when you come home, get a
dog. If you want to be judged gently, get a cat.

Q: I failed my driving test for the second time. I feel stupid.
A: You are not stupid; plenty of excellent drivers needed three or four attempts. Ask the examiner's notes what went
wrong, practise only that for two weeks, and book the next date while your memory is fresh.

Q: How do I tell my boss that I have too much work?
A: Bring a list of your tasks with a rough number of hours next to each. Then ask which should come first and which can
wait. It turns a complaint into a decision that your boss has to make.

Q: Act as a grumpy old wizard. I ask you for a love potion.
A: A love potion? Bah! Forty years of study, and they come to me for courtship. Wash your hair, young fool, and learn
to listen. That will be six silver coins for the advice.

Q: Is it rude to bring my own food to a party?
A: Not if you bring enough to share and tell the host beforehand. If you have an allergy, most hosts will be relieved
that you took care of it.

Q: Tell me a joke about mathematicians.
A: Why was the maths book so sad? It had too many problems. I apologise; the good jokes are all imaginary.

Q: I want to start running but I hate running.
A: Then start with walking! Go out for twenty minutes and jog only from one lamp post to the next whenever you feel
like it. Keep it so slow that you could chat. If you still hate it after a month, try dancing or swimming.

Q: What present can I get for my dad for about $30? He likes fishing.
A: A good head torch for early mornings, a small waterproof tackle box, or a thermos flask would all fit. With a
handwritten voucher for a fishing day together, even a $10 gift becomes a great one.

Q: Good morning! Give me a little motivation.
A: Good morning! You don't have to win the whole day at once. Choose the one thing you would be glad to have finished
by lunch, and begin it badly. The rest will follow.

Q: My teenager spends six hours a day on his phone. Should I forbid it?
A: A ban usually ends in a fight. Talk with him about what he does there, agree on phone-free times such as meals and
the last hour before bed, and keep to them yourself. Offer something appealing for the hours that become free.

Q: Let's play a game: you're a shopkeeper and I want to buy a sword.
A: Welcome, traveller! I have a fine steel blade for 80 gold pieces, hardly used, only one previous hero. For 20 pieces
there is also this wooden one, excellent against very small dragons. What will it be?

Q: I feel like all my friends are more successful than me.
A: That is a painful feeling, and a common one. Remember that you see their announcements and not their doubts. What
would success mean to you if nobody could see it? We could start from there.

Q: Any idea how to keep my basil alive?
A: Put it in a bright window, water it from below when the soil feels dry, and cut whole stems just above a pair of
leaves rather than plucking single ones. Supermarket pots are crowded, so splitting yours into two helps as well.

Q: Can you be my study buddy for an hour?
A: Gladly! Tell me your subject and what you want to have done by the end. We will work for twenty-five minutes, take a
break of five, and repeat. I'll ask you a question after each round.

Q: My computer is slow. I'm not technical, please be gentle.
A: No worries, we'll take it slowly. First restart it, as that alone often helps. Then close the programs that you
don't use, and check that the disk is not nearly full. Tell me what you see, and we will look at the next step.

Q: I said something mean to my sister. How can I make up for it?
A: Apologise soon and plainly: name what you said, say that it was wrong, and don't add a "but". Then give her time. A
small kind deed later this week will say more than a long speech.

Q: What would you do with a free Sunday?
A: If I had legs, I would take a long walk with no destination, buy a pastry on the way, and finish a book on a park
bench. What does your ideal Sunday look like?

Q: Is 30 too late to learn the violin?
A: Not at all. You may not join a famous orchestra, but with twenty minutes a day you could play simple tunes within
months. Rent an instrument before you buy one, and find a teacher who likes adult beginners.

Q: I'm nervous about my first date tomorrow. What can we talk about?
A: Ask about things that people enjoy describing: the best trip they ever took, what they would do with a year off, or
which food they refuse to share. Listen, and ask one more question than you planned.

Q: Speak to me like a sports commentator while I make tea.
A: And they're off! The kettle takes an early lead, the bag drops in from above, what a landing! The crowd holds its
breath. Will there be milk? There IS milk! An astonishing finish!

Q: My rent is going up by 8%. Can I negotiate?
A: Often you can. Find out what similar flats nearby cost, mention that you pay on time and look after the place, and
propose a smaller rise in exchange for a longer contract. Stay friendly, and get the result in writing.

Q: i think i'm getting a cold :(
A: Oh no, poor you! Drink something warm, go to bed early, and be kind to yourself for a day or two. If you get a high
fever or it drags on, please see a doctor.

Q: Which superpower is the most useful in everyday life?
A: I vote for pausing time. No more missed trains, every nap is free, and you always think of the clever reply.
Invisibility sounds great until someone sits down on you in the bus.

Q: How can I make new friends in a city where I know nobody?
A: Go somewhere regularly rather than everywhere once: a choir, a climbing gym, a language table. Friendships grow from
seeing the same faces again. After the third time, ask one person for a coffee.

Q: My colleague takes credit for my ideas. What now?
A: Put ideas in writing before the meeting, for example in a short message to the team. When it happens again, say
calmly, "Glad you like what I suggested on Monday; here is the next step." If it goes on, speak with the person alone.

Q: I've been debugging for nine hours and I want to throw the laptop out of the window.
A: Step away from the window! And from the screen: eat something, take a walk, and explain the problem aloud to a
plant. Most bugs are found either by sleeping or by saying, "But that can't be it."

Q: Be honest, is pineapple on pizza okay?
A: Honestly? Yes. Sweet and salty is a classic pair, and nobody is harmed. I will, however, look away politely if there
is also banana.

Q: We're planning a weekend trip with two toddlers. Sea or mountains?
A: With toddlers I'd choose the sea: a bucket and some sand will keep them busy for hours, and nobody needs to be
carried uphill. Book somewhere with a kitchen, and plan just one outing a day.

Q: How do I politely leave a long phone call with my aunt?
A: Announce the end at the start: "I've got fifteen minutes and wanted to hear your voice." When the time comes, thank
her, mention one thing she told you, and promise when you will call again.

Q: Imagine you're my alarm clock. Wake me up nicely.
A: Psst. It's seven. The sun asked about you, the coffee is lonely, and your bed has promised to wait until tonight.
One foot first. There you go!

Q: I keep buying books that I never read. Help?
A: Welcome to a large and cheerful club! Try this: put five books on the bedside table and hide the rest. You may buy a
new one when you have finished two of the five, or admitted that you never will.

Q: What's your favourite season?
A: I like the idea of early autumn best: cool mornings, warm afternoons, and everyone in the mood for soup. Which one
do you like?

Q: Should I quit my job to become a potter?
A: Perhaps not on Monday. Save six months of expenses first, sell at two or three markets at weekends, and see whether
you still love clay when it is work. If the answer is yes, you will have a plan as well as a dream.

Q: My grandma wants to learn how to video-call. How do I teach her?
A: Sit beside her and let her do the tapping. Practise just one thing, accepting a call, until it feels easy, and write
the steps on a large card. Then call her every day for a week.

Q: You're a time traveller from 1920. What surprises you most?
A: Good heavens, everybody is carrying a telephone, and nobody is telephoning! The carriages have no horses, the ladies
wear trousers, and a cup of coffee costs what I paid for my bicycle.

Q: I got the job!!!
A: Congratulations, that's wonderful news! All that preparation paid off. How are you going to celebrate, and when do
you start?

Q: Do you have any advice for a long flight, about 11 hours?
A: Choose an aisle seat so you can get up, bring a scarf and an empty bottle to fill after security, and set your watch
to the new time at once. Save one good film for the last three hours, when everyone gets restless.

Q: I can't decide between the blue sofa for $400 and the grey one for $550.
A: Imagine both at the same price: which would you take? If it is the grey one and you will keep it for ten years, the
difference is only $15 a year. If you would choose blue anyway, enjoy the saving.

Q: How do I stop overthinking every message that I send?
A: Give yourself a rule: read it once, fix the spelling, send it. Most people skim a message in three seconds and think
about their own lives again. Odd wording that keeps you awake is usually forgotten by lunch.

Q: Tell me something nice.
A: Somewhere, someone still smiles about a kind thing you did and have long forgotten.

Q: What do I wear to a winter wedding?
A: Go for warm fabrics in festive colours: velvet or wool in dark green, burgundy or navy. Add a smart coat, since
there will be photographs outside, and take comfortable shoes for the dancing.

Q: Our neighbour plays the drums at 10 p.m. What can we do?
A: Knock on the door with a smile before you write any letters. Drummers often don't know how far the sound carries.
Suggest fixed hours, say until eight in the evening, and offer your number so that they can ask.

Q: Roleplay: you are the last dragon and I'm a reporter.
A: Sit, little reporter, and keep your pencil away from my tail. Yes, I am the last. No, I don't eat princesses; they
were always better company than the knights. Next question, and no photographs with flash.

Q: I forgot my best friend's birthday yesterday. Panic!
A: Breathe! Call today and don't invent excuses: "I missed your day, and I'm sorry. May I take you out on Saturday?" A
belated celebration has an advantage: it is the only party that week.

Q: Could you help me decide what to name my goldfish?
A: Of course! For a dignified fish, I suggest Admiral or Duchess. For a cheeky one, Nugget. If it keeps circling the
same plant, the only honest name is Monday.

Q: Would it be weird to go to the cinema alone?
A: Not in the least. You choose the film, you keep all the popcorn, and in the dark nobody counts companions. Lots of
people love it once they have tried it.

Q: Make me a simple morning schedule, I have to leave at 8:15.
A: Sure! 6:45 get up and open the window. 7:00 shower. 7:20 breakfast, no phone. 7:45 pack your bag. 8:00 shoes, keys,
one deep breath. 8:15 out of the door, with time to wave at the neighbour.

Q: I have $50 for snacks for a film night with 8 people. Ideas?
A: Fun! I'd get popcorn kernels ($4), crisps and salsa ($12), grapes and carrots ($9), two frozen pizzas ($14) and a
big bottle of lemonade ($5). That leaves about $6 for ice cream, which nobody ever refuses.

Q: Which of these phones would you take? The small one has 128 GB and 6.1 inches for $299, the big one 256 GB and 6.7
inches for $379.
A: If you take lots of photos or videos, the big one: for $80 more you get twice the storage, and you will keep it
longer. If you have small hands and mostly text and call, the other is easier to hold and kinder to your wallet.

Q: Plan a beginner's workout for me, nothing fancy.
A: Gladly! On Monday, Wednesday and Friday do 3 rounds of 10 squats, 8 push-ups against a wall, 12 lunges and a plank
of 20 seconds. Rest for 60 seconds between rounds. After 2 weeks, add 2 of everything and be proud.

Q: My daughter is 7 and hates maths homework. How do I help her?
A: Make it short and real: 10 minutes, then a break. Let her count coins in a play shop, halve a recipe, or roll dice.
Praise how she tries rather than the right result, and never do the sheet for her.
"""
