"""Questions about facts and their answers for the demo's pool, in the format that material.parse reads."""

TEXT = """\
Q: Why is the sky blue during the day?
A: Air molecules scatter short, blue wavelengths of sunlight far more strongly than long, red ones. Blue light
therefore reaches our eyes from every direction, while the other colours mostly travel straight on.

Q: What is the capital of Australia, and why do people get it wrong?
A: The capital is Canberra. Many people guess Sydney or Melbourne because those cities are larger; Canberra was founded
as a compromise between the two rivals.

Q: How far is the Moon from the Earth on average?
A: About 384,400 kilometres, measured from centre to centre. The distance varies during the month, because the orbit is
slightly elliptical.

Q: Who painted the ceiling of the Sistine Chapel?
A: Michelangelo painted it between 1508 and 1512, on a commission from Pope Julius II.

Q: Explain what photosynthesis does.
A: Plants, algae and some bacteria use the energy of light to turn carbon dioxide and water into sugars. Oxygen is
released as a by-product.

Q: Which river flows through Vienna, Budapest and Belgrade?
A: The Danube flows through all three capitals, and through Bratislava as well, on its way to the Black Sea.

Q: What does the CPU of a computer actually do?
A: It fetches instructions from memory, decodes them and carries them out one after another: simple operations such as
adding numbers, comparing values, moving data or jumping to another instruction. Modern processors do billions of these
per second.

Q: Name the planets of the solar system, starting at the Sun.
A: Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune. Pluto has been classed as a dwarf planet since
2006.

Q: Why do we have leap years?
A: The Earth takes about 365.24 days to travel around the Sun. Adding a day nearly every four years keeps the calendar
in step with the seasons; century years are skipped unless they are divisible by 400.

Q: What caused the fall of the Berlin Wall in November 1989?
A: Months of protest and emigration had put the East German government under pressure. When a spokesman mistakenly
announced that new travel rules applied at once, crowds went to the crossings, and the guards opened them.

Q: Is a tomato a fruit or a vegetable?
A: Botanically it is a fruit, more precisely a berry, because it grows from the flower and holds the seeds. In cooking
it is treated as a vegetable.

Q: What is the boiling point of water at sea level, in both common scales?
A: Pure water boils at 100 degrees Celsius or 212 degrees Fahrenheit under normal air pressure. On high mountains it
boils at lower temperatures.

Q: Who was Ada Lovelace?
A: She was an English mathematician of the nineteenth century. Her notes on Charles Babbage's planned Analytical Engine
contain what is often called the first published computer program, a method for computing Bernoulli numbers.

Q: How do vaccines protect us?
A: They show the immune system a harmless piece or form of a germ. The body builds antibodies and memory cells, so it
can react quickly if the real germ arrives later.

Q: Which is the largest ocean?
A: The Pacific. It covers roughly a third of the planet's surface, more than all the land areas together.

Q: Tell me what a black hole is in simple terms.
A: It is a region of space where so much mass is packed together that nothing which comes too close can escape its
gravity, not even light. Many form when very massive stars collapse.

Q: When did the First World War begin and end?
A: It began in the summer of 1914, after the assassination of Archduke Franz Ferdinand in Sarajevo, and fighting on the
Western Front ended with the armistice of 11 November 1918.

Q: What is an isotope?
A: Isotopes are atoms of the same element with different numbers of neutrons. Carbon-12 and carbon-14, for example,
both have six protons, but six and eight neutrons.

Q: Which language has the most native speakers?
A: Mandarin Chinese, with more than 900 million. Spanish comes second, and English third if only native speakers are
counted.

Q: Why do leaves turn yellow and red in autumn?
A: Trees break down the green chlorophyll before winter. Yellow and orange pigments that were there all along become
visible, and some species produce red ones as well.

Q: What does HTTP stand for and what is it used for?
A: It stands for Hypertext Transfer Protocol. Browsers and servers use it to exchange web pages and other data: the
browser sends a request, the server sends back a response with a status code such as 200 or 404.

Q: How many bones does an adult human have?
A: Usually 206. Babies are born with more, around 270 to 300, and many of these fuse during growth.

Q: Where is Machu Picchu and who built it?
A: It lies high in the Andes of southern Peru, near Cusco. The Inca built it in the fifteenth century, probably as an
estate for the ruler Pachacuti.

Q: What is the difference between weather and climate?
A: Weather is what the atmosphere does over hours and days at one place. Climate is the pattern of weather there over
decades, usually described by averages of about thirty years.

Q: Why is the sea salty?
A: Rivers carry dissolved minerals from rocks into the ocean, and vents on the sea floor add more. Water evaporates but
the salts stay behind, so they have built up over millions of years to about 35 grams per litre.

Q: What did the Rosetta Stone make possible?
A: It bears the same decree in hieroglyphs, Demotic and Greek. Because scholars could read the Greek, Jean-François
Champollion was able to decipher hieroglyphs in 1822.

Q: How does a microwave oven heat food?
A: It produces electromagnetic waves of about 2.45 gigahertz that make polar molecules, chiefly water, rotate back and
forth. This motion turns into heat inside the food.

Q: What is the Great Barrier Reef?
A: The world's largest system of coral reefs, off the coast of Queensland in Australia. It is about 2,300 kilometres
long and made up of nearly 3,000 separate reefs.

Q: Does sound travel faster in air or in water?
A: In water, and by a wide margin: about 1,480 metres per second compared with roughly 343 in air at 20 degrees
Celsius.

Q: Who discovered penicillin, and how?
A: Alexander Fleming, in 1928. He noticed that a mould which had spoiled one of his bacterial cultures had killed the
bacteria around it.

Q: What are the three branches of government in the United States?
A: The legislative branch, which is Congress; the executive branch, headed by the president; and the judicial branch
with the Supreme Court at its top.

Q: Why does ice float?
A: Water expands when it freezes, because its molecules form an open crystal lattice. Ice is therefore about nine
percent less dense than liquid water.

Q: How many bits make a byte, and what can one byte store?
A: Eight bits make a byte. That allows 256 different values, enough for a number from 0 to 255 or for one letter in
simple text encodings.

Q: What is the tallest mountain in Africa?
A: Kilimanjaro in Tanzania, a dormant volcano whose summit is 5,895 metres above sea level.

Q: What was the Silk Road?
A: A network of trade routes that linked China with Central Asia, the Middle East and Europe for many centuries. Along
with silk, spices and paper, it carried religions, inventions and diseases.

Q: Give a short definition of inflation in economics.
A: Inflation is a general and lasting rise in prices. If it is 3% a year, a basket of goods that costs 100 euros today
will cost about 103 euros in a year's time.

Q: Which gas makes up most of the air we breathe?
A: Nitrogen, at about 78 percent. Oxygen follows with 21 percent, and argon with just under one.

Q: What is a prime number, and is 1 one of them?
A: A prime is a whole number greater than 1 that is divisible only by 1 and itself. By this definition 1 is not prime;
the smallest prime is 2.

Q: How do bees make honey?
A: Foragers collect nectar and pass it from bee to bee in the hive, adding enzymes. They spread it in the comb and fan
it with their wings until most of the water has evaporated.

Q: What are tectonic plates?
A: They are large, rigid pieces of the Earth's outer shell that move a few centimetres a year. Most earthquakes and
volcanoes occur along their edges.

Q: Which country gave the Statue of Liberty to the United States?
A: France. It was designed by the sculptor Frédéric Auguste Bartholdi and dedicated in New York Harbor in 1886.

Q: What is open-source software?
A: Software whose source code anyone may read, change and pass on under its licence. The Linux kernel, the Python
language and the Firefox browser are well-known examples.

Q: Why do onions make you cry?
A: Cutting breaks cells and lets an enzyme produce a sulphur gas, which irritates the eyes. Tears wash it away. A sharp
knife and a chilled onion help.

Q: Who was the first person in space?
A: The Soviet cosmonaut Yuri Gagarin. On 12 April 1961 he orbited the Earth once in Vostok 1, in a flight of 108
minutes.

Q: Which mammals lay eggs?
A: Only the monotremes do: the platypus and the echidnas, which live in Australia and New Guinea.

Q: What is a haiku?
A: A short Japanese form of verse. It is traditionally written with 5, 7 and 5 sound units and often refers to a
season.

Q: Why do cats purr?
A: Cats purr when they are content, but also when hungry, nervous or hurt. The sound comes from rapid movements of the
muscles of the larynx as the animal breathes in and out.

Q: What is the difference between RAM and a hard disk?
A: RAM holds the data a computer is working on; it is very fast, but it forgets everything when the power goes off. A
hard disk is slower and larger and keeps its data permanently.

Q: What did Gregor Mendel find out with his pea plants?
A: By crossing thousands of plants and counting their traits, he found that inherited factors come in pairs and are
passed on in predictable ratios, such as three to one. His work became the basis of genetics.

Q: Where does chocolate come from?
A: From the seeds of the cacao tree, which was first cultivated in the Americas. The beans are fermented, dried,
roasted and ground before sugar is added.

Q: What is the speed of light?
A: In a vacuum it is 299,792,458 metres per second, exactly, since the metre is defined by it. Sunlight needs a little
more than eight minutes to reach us.

Q: Why was the Suez Canal important when it opened in 1869?
A: It connected the Mediterranean with the Red Sea, so that ships sailing between Europe and Asia no longer had to go
around Africa. That shortened the voyage from London to Mumbai by thousands of kilometres.

Q: List four milestones of early space flight with their years.
A: 1957: Sputnik 1, the first artificial satellite. 1961: Yuri Gagarin orbits the Earth. 1965: Alexei Leonov leaves his
capsule for 12 minutes. 1969: Apollo 11 lands on the Moon.

Q: Compare the diameters of the Earth, Mars and Jupiter.
A: The Earth measures about 12,742 km across and Mars about 6,779 km, roughly half as much. Jupiter, at nearly 139,820
km, is about 11 times as wide as the Earth.

Q: What are the freezing and boiling points of water in kelvin?
A: At normal pressure water freezes at 273.15 K and boils at about 373.1 K. A step of 1 K is as large as a step of 1
°C, and 0 K is absolute zero.

Q: How tall are the three highest mountains in the world?
A: Mount Everest is 8,849 m high, K2 is 8,611 m, and Kangchenjunga is 8,586 m. All 3 are in Asia, in the Himalaya and
the Karakoram.

Q: When did Bach, Mozart and Beethoven live?
A: Johann Sebastian Bach (1685-1750), Wolfgang Amadeus Mozart (1756-1791), Ludwig van Beethoven (1770-1827). Mozart
died at only 35.

Q: Why are computer memory sizes so often powers of two?
A: Memory comes in sizes such as 256, 512, 1024 and 2048 because each further address line doubles the number of cells
that can be addressed. 1024 bytes are called a kibibyte.

Q: How long is a marathon, and who were the first men to run it below 2:10 and 2:05?
A: It is 42.195 km long. Derek Clayton was the first to run below 2:10, with 2:09:36 in 1967, and Paul Tergat the first
below 2:05, with 2:04:55 in 2003.

Q: How many players are on the field in football, basketball and volleyball?
A: Football has 11 on each side, so 22 in all; basketball has 5 and volleyball 6 on each side.
"""
