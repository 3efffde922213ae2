"""Sentences and their translations for the demo's pool."""

from __future__ import annotations

# {language} is the language to translate into, {text} the sentence; a pair is (instruction, input).
WORDINGS = (
    ("Translate into {language}.", "{text}"),
    ("Translate the following sentence to {language}: {text}", ""),
    ('How do you say "{text}" in {language}?', ""),
    ("Give a natural {language} version of this text.", "{text}"),
    ("Render this in {language}, please.", "{text}"),
    ("I need the {language} translation of: {text}", ""),
    ("Put this message into everyday {language}.", "{text}"),
    ("How would someone write the line below in {language}?", "{text}"),
    ("{text}\n\nSay the same in {language}.", ""),
    ("Turn this into {language}", "{text}"),
)

SENTENCES = {
    "French": (
        (
            "The train to Lyon leaves at half past eight, so please be at the station early.",
            "Le train pour Lyon part à huit heures et demie, alors soyez à la gare en avance, s'il vous plaît.",
        ),
        (
            "My sister bought three kilos of apples and a loaf of bread at the market this morning.",
            "Ma sœur a acheté trois kilos de pommes et un pain au marché ce matin.",
        ),
        (
            "If it rains tomorrow, we will stay at home and watch an old film.",
            "S'il pleut demain, nous resterons à la maison et nous regarderons un vieux film.",
        ),
        (
            "Could you tell me where the nearest pharmacy is? I have had a headache since last night.",
            "Pourriez-vous me dire où se trouve la pharmacie la plus proche ? J'ai mal à la tête depuis hier soir.",
        ),
        (
            "The computer stopped working just before I could save my report.",
            "L'ordinateur a cessé de fonctionner juste avant que je puisse enregistrer mon rapport.",
        ),
        (
            "We have been living in this small village for twelve years, and we know all our neighbours.",
            "Nous vivons dans ce petit village depuis douze ans et nous connaissons tous nos voisins.",
        ),
        (
            "The children were so tired that they fell asleep in the car.",
            "Les enfants étaient si fatigués qu'ils se sont endormis dans la voiture.",
        ),
        (
            "I would like a table for two near the window, if possible.",
            "Je voudrais une table pour deux près de la fenêtre, si possible.",
        ),
        (
            "The museum is closed on Mondays, but the garden is open every day.",
            "Le musée est fermé le lundi, mais le jardin est ouvert tous les jours.",
        ),
        (
            "He learned to play the piano without ever taking a lesson.",
            "Il a appris à jouer du piano sans jamais prendre de cours.",
        ),
        (
            "Our maths teacher explained twice how to divide one fraction by another.",
            "Notre professeur de mathématiques a expliqué deux fois comment diviser une fraction par une autre.",
        ),
        (
            "Do not forget to water the plants while I am on holiday.",
            "N'oublie pas d'arroser les plantes pendant que je suis en vacances.",
        ),
        (
            "The soup is too salty, but the fish is delicious.",
            "La soupe est trop salée, mais le poisson est délicieux.",
        ),
        (
            "Since the shop has raised its prices, fewer people go there.",
            "Depuis que le magasin a augmenté ses prix, moins de gens y vont.",
        ),
        (
            "She wrote a long letter to her grandmother to thank her for the gift.",
            "Elle a écrit une longue lettre à sa grand-mère pour la remercier du cadeau.",
        ),
        (
            "The flat has 85 square metres, costs 1,150 euros a month and is available from 1 June.",
            "L'appartement fait 85 mètres carrés, coûte 1 150 euros par mois et est disponible à partir du 1er juin.",
        ),
    ),
    "Spanish": (
        (
            "I lost my keys yesterday and had to wait outside until my brother came home.",
            "Ayer perdí las llaves y tuve que esperar fuera hasta que mi hermano llegó a casa.",
        ),
        (
            "How much do these two shirts cost? I only have forty euros with me.",
            "¿Cuánto cuestan estas dos camisas? Solo llevo cuarenta euros.",
        ),
        (
            "The doctor told me to drink more water and to sleep at least eight hours.",
            "El médico me dijo que bebiera más agua y que durmiera al menos ocho horas.",
        ),
        (
            "We are looking for a flat with two bedrooms near the university.",
            "Buscamos un piso con dos dormitorios cerca de la universidad.",
        ),
        (
            "The programmer found the error after reading the code for the third time.",
            "El programador encontró el error después de leer el código por tercera vez.",
        ),
        (
            "When I was a child, my grandfather used to tell me stories about the sea.",
            "Cuando era niño, mi abuelo me contaba historias sobre el mar.",
        ),
        (
            "Turn left at the traffic light and walk straight on to the square.",
            "Gire a la izquierda en el semáforo y siga recto hasta la plaza.",
        ),
        (
            "I hope you have a good trip and that the weather is nice.",
            "Espero que tengas un buen viaje y que haga buen tiempo.",
        ),
        (
            "They have not answered my email yet, so I will call them tomorrow.",
            "Todavía no han respondido a mi correo electrónico, así que los llamaré mañana.",
        ),
        (
            "This recipe needs five eggs, but there are only three in the fridge.",
            "Esta receta necesita cinco huevos, pero solo hay tres en la nevera.",
        ),
        (
            "The concert was cancelled because the singer was ill.",
            "El concierto se canceló porque la cantante estaba enferma.",
        ),
        (
            "My neighbour speaks four languages and is now learning Japanese.",
            "Mi vecina habla cuatro idiomas y ahora está aprendiendo japonés.",
        ),
        ("Nobody knew the answer, not even the teacher.", "Nadie sabía la respuesta, ni siquiera el profesor."),
        (
            "It is cheaper to travel by bus, although it takes longer.",
            "Es más barato viajar en autobús, aunque se tarda más.",
        ),
    ),
    "German": (
        (
            "I would have called you earlier, but my phone was broken.",
            "Ich hätte dich früher angerufen, aber mein Telefon war kaputt.",
        ),
        (
            "The meeting has been moved from Tuesday to Thursday at ten o'clock.",
            "Die Besprechung wurde von Dienstag auf Donnerstag um zehn Uhr verschoben.",
        ),
        (
            "Could you please send me the invoice again? I cannot find it anymore.",
            "Könnten Sie mir bitte die Rechnung noch einmal schicken? Ich kann sie nicht mehr finden.",
        ),
        (
            "Although it was cold, the children played in the garden all afternoon.",
            "Obwohl es kalt war, spielten die Kinder den ganzen Nachmittag im Garten.",
        ),
        (
            "Press this button if you want to restart the program.",
            "Drücken Sie diese Taste, wenn Sie das Programm neu starten möchten.",
        ),
        (
            "My parents have been married for thirty years and still go dancing every Friday.",
            "Meine Eltern sind seit dreißig Jahren verheiratet und gehen immer noch jeden Freitag tanzen.",
        ),
        (
            "The book that you lent me was much better than the film.",
            "Das Buch, das du mir geliehen hast, war viel besser als der Film.",
        ),
        (
            "We need to buy milk, butter and a dozen eggs before the shop closes.",
            "Wir müssen Milch, Butter und ein Dutzend Eier kaufen, bevor der Laden schließt.",
        ),
        (
            "He is looking forward to the summer because he wants to cycle along the river.",
            "Er freut sich auf den Sommer, weil er am Fluss entlang Rad fahren will.",
        ),
        (
            "The tickets cost twelve euros each, and children under six get in free.",
            "Die Karten kosten zwölf Euro pro Stück, und Kinder unter sechs Jahren haben freien Eintritt.",
        ),
        (
            "I do not understand why the heating is on in the middle of July.",
            "Ich verstehe nicht, warum mitten im Juli die Heizung läuft.",
        ),
        (
            "She has been working as a nurse in Hamburg since last autumn.",
            "Sie arbeitet seit letztem Herbst als Krankenschwester in Hamburg.",
        ),
        (
            "Please take off your shoes before you come into the flat.",
            "Bitte zieh deine Schuhe aus, bevor du in die Wohnung kommst.",
        ),
        (
            "The old bridge was built more than four hundred years ago.",
            "Die alte Brücke wurde vor mehr als vierhundert Jahren gebaut.",
        ),
        (
            "Flight 482 leaves from gate 17 at 6:40 p.m. instead of 5:55 p.m.",
            "Flug 482 startet um 18:40 Uhr statt um 17:55 Uhr von Gate 17.",
        ),
    ),
    "Italian": (
        (
            "Tomorrow we are going to the lake with our friends from Milan.",
            "Domani andiamo al lago con i nostri amici di Milano.",
        ),
        (
            "The coffee in this bar is excellent and costs only one euro.",
            "Il caffè in questo bar è ottimo e costa solo un euro.",
        ),
        (
            "I forgot the password of my account and cannot read my messages.",
            "Ho dimenticato la password del mio account e non riesco a leggere i miei messaggi.",
        ),
        (
            "My cousin is twenty years old and studies medicine in Bologna.",
            "Mia cugina ha vent'anni e studia medicina a Bologna.",
        ),
        (
            "If I had more time, I would read a book every week.",
            "Se avessi più tempo, leggerei un libro ogni settimana.",
        ),
        (
            "Excuse me, is this seat free or is somebody sitting here?",
            "Scusi, questo posto è libero o c'è seduto qualcuno?",
        ),
        (
            "The last bus has already left, so we must walk home.",
            "L'ultimo autobus è già partito, quindi dobbiamo tornare a casa a piedi.",
        ),
        ("She cooks very well, but she hates washing the dishes.", "Cucina molto bene, ma odia lavare i piatti."),
        (
            "The cat slept on the sofa while the dog barked in the courtyard.",
            "Il gatto dormiva sul divano mentre il cane abbaiava in cortile.",
        ),
        (
            "We booked a room with a view of the sea for three nights.",
            "Abbiamo prenotato una camera con vista sul mare per tre notti.",
        ),
        (
            "Can you help me carry these boxes up to the second floor?",
            "Puoi aiutarmi a portare queste scatole al secondo piano?",
        ),
        (
            "The shops open at nine and close at half past seven in the evening.",
            "I negozi aprono alle nove e chiudono alle sette e mezza di sera.",
        ),
    ),
}
