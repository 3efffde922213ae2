"""The word-problem stories kept for the arithmetic target; none of them is in the pool."""

from __future__ import annotations

import random
from fractions import Fraction

from .arithmetic import PEOPLE, Problem, Work, number


def concert_hall(r: random.Random) -> Problem:
    rows, seats, empty, late = r.randint(18, 30), r.randint(14, 24), r.randint(20, 60), r.randint(5, 15)
    w = Work()
    total = w.step("all the seats", rows, "*", seats)
    taken = w.step("the seats taken at the start", total, "-", empty)
    w.step("the seats taken after the interval", taken, "+", late)
    return w.problem(
        f"A concert hall holds {rows} rows with {seats} seats each. When the music starts {empty} seats are empty, and "
        f"{late} latecomers sit down during the interval. How many seats are occupied then?",
        "{} seats",
    )


def sponsored_run(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    laps, sponsors, pledge, gift = r.randint(9, 18), r.randint(3, 6), r.randint(2, 4), r.choice([10, 15, 20, 25])
    w = Work()
    lap = w.step("the money raised per lap", sponsors, "*", pledge)
    run = w.step("the money raised by running", lap, "*", laps)
    w.step("the whole donation", run, "+", gift)
    return w.problem(
        f"{sponsors} sponsors each promise ${pledge} for every lap {p.name} runs, and an aunt adds ${gift} on top. "
        f"{p.name} manages {laps} laps. How much money goes to charity?",
        "${}",
    )


def honey(r: random.Random) -> Problem:
    hives, jar, kilos = r.randint(4, 9), 500, r.randint(8, 20)
    w = Work()
    total = w.step("the kilograms collected", hives, "*", kilos)
    grams = w.step("the grams collected", total, "*", 1000)
    w.step("the jars", grams, "/", jar)
    return w.problem(
        f"Each of a beekeeper's {hives} hives yields {kilos} kg of honey. How many jars of {jar} g can be filled with "
        f"the harvest?",
        "{} jars",
    )


def candles(r: random.Random) -> Problem:
    rate, evenings, hours, stub = r.choice([2, 3]), r.randint(2, 4), r.randint(2, 3), r.randint(4, 9)
    w = Work()
    burning = w.step("the hours of burning", evenings, "*", hours)
    used = w.step("the centimetres burnt", burning, "*", rate)
    w.step("the height that is left", rate * evenings * hours + stub, "-", used)
    return w.problem(
        f"A candle {rate * evenings * hours + stub} cm tall loses {rate} cm for every hour it burns. It is lit on "
        f"{evenings} evenings for {hours} hours each. How tall is the rest?",
        "{} cm",
    )


def joiner(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    stools, tables, spare = r.randint(8, 20), r.randint(4, 9), r.randint(5, 12)
    w = Work()
    a = w.step("the legs on the stools", stools, "*", 3)
    b = w.step("the legs on the tables", tables, "*", 4)
    both = w.step("the legs in use", a, "+", b)
    w.step("the legs to order", both, "+", spare)
    return w.problem(
        f"{p.name} has an order for {stools} three-legged stools and {tables} four-legged tables and wants {spare} "
        f"spare legs in the workshop. How many legs should {p.they} order from the sawmill?",
        "{} legs",
    )


def training_plan(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    first, more = r.randint(8, 20), r.randint(2, 5)
    w = Work()
    second = w.step("the second week", first, "+", more)
    third = w.step("the third week", second, "+", more)
    w.step("all three weeks", first, "+", second, "+", third)
    return w.problem(
        f"{p.name} runs {first} miles in the first week of training and then {more} miles more every week than the "
        f"week before. How many miles have been run after three weeks?",
        "{} miles",
    )


def pizza(r: random.Random) -> Problem:
    pizzas, slices, guests = r.randint(4, 7), r.choice([6, 8, 10]), r.randint(8, 11)
    each = (pizzas * slices - 2) // guests
    w = Work()
    total = w.step("the slices on the table", pizzas, "*", slices)
    eaten = w.step("the slices eaten", guests, "*", each)
    w.step("the slices in the fridge", total, "-", eaten)
    return w.problem(
        f"{pizzas} pizzas are cut into {slices} slices each for a sleepover. All {guests} guests eat {each} "
        f"{'slice' if each == 1 else 'slices'}, and the remainder goes into the fridge. How many slices end up there?",
        "{} slices",
    )


def quilt(r: random.Random) -> Problem:
    across, down, each = r.randint(8, 12), r.randint(9, 14), r.choice([4, 5, 6])
    w = Work()
    squares = w.step("the squares in the quilt", across, "*", down)
    minutes = w.step("the minutes of sewing", squares, "*", each)
    w.step("the hours of sewing", minutes, "/", 60)
    if w.steps[-1].value.denominator not in (1, 2, 4, 5):
        return quilt(r)
    return w.problem(
        f"Grandmother sews a quilt that is {across} squares wide and {down} squares long. A square keeps her busy for "
        f"{each} minutes. How many hours does the sewing take?",
        "{} hours",
    )


def aquarium(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    guppies, tetras, price = r.randint(4, 9), r.randint(3, 7), r.choice([2, 3])
    budget = r.choice([60, 70, 80])
    w = Work()
    a = w.step("the price of the guppies", guppies, "*", price)
    tetra = w.step("the price of a tetra", price, "*", 2)
    b = w.step("the price of the tetras", tetras, "*", tetra)
    both = w.step("the price of all fish", a, "+", b)
    w.step("the money for plants", budget, "-", both)
    if w.steps[-1].value <= 0:
        return aquarium(r)
    return w.problem(
        f"With ${budget} in hand {p.name} stocks an aquarium: {guppies} guppies at ${price} apiece and {tetras} tetras "
        f"at double that price. How much can still be spent on plants?",
        "${}",
    )


def ferry(r: random.Random) -> Problem:
    cars, bikes, crossings = r.randint(14, 25), r.randint(6, 15), r.randint(3, 7)
    car, bike = r.choice([8, 9, 10, 12]), r.choice([3, 4, 5])
    w = Work()
    a = w.step("the fares for cars", cars, "*", car)
    b = w.step("the fares for motorbikes", bikes, "*", bike)
    trip = w.step("the fares of one crossing", a, "+", b)
    w.step("the fares of the day", trip, "*", crossings)
    return w.problem(
        f"A ferry carries {cars} cars at ${car} and {bikes} motorbikes at ${bike} on each crossing. It crosses the "
        f"fjord {crossings} times today, always full. What are the day's fares?",
        "${}",
    )


def dog_food(r: random.Random) -> Problem:
    dogs, grams, spare = r.randint(3, 6), r.choice([250, 300, 400, 500]), r.randint(2, 5)
    days = r.choice([10, 15, 20])
    w = Work()
    daily = w.step("the grams eaten per day", dogs, "*", grams)
    total = w.step("the grams for the whole stay", daily, "*", days)
    kilos = w.step("the kilograms for the whole stay", total, "/", 1000)
    store = kilos + spare
    w.step("the kilograms left over", store, "-", kilos)
    return w.problem(
        f"A kennel has {number(store)} kg of dry food. {dogs} dogs stay for {days} days, and each dog eats {grams} g "
        f"a day. How much food is left when they go home?",
        "{} kg",
    )


def piggy_bank(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    quarters, dimes, nickels = 4 * r.randint(3, 9), 10 * r.randint(1, 4), 20 * r.randint(1, 3)
    w = Work()
    a = w.step("the dollars in quarters", quarters, "*", Fraction(1, 4))
    b = w.step("the dollars in dimes", dimes, "*", Fraction(1, 10))
    c = w.step("the dollars in nickels", nickels, "*", Fraction(1, 20))
    w.step("everything in the piggy bank", a, "+", b, "+", c)
    return w.problem(
        f"When {p.name} empties {p.their} piggy bank, out fall {quarters} quarters, {dimes} dimes and {nickels} "
        f"nickels. How many dollars did {p.they} save?",
        "${}",
    )


def way_to_school(r: random.Random) -> Problem:
    pupils, walk, cycle = r.choice([200, 300, 400, 500]), r.choice([25, 30, 35, 40]), r.choice([15, 20, 22])
    w = Work()
    both = w.step("the percentage who walk or cycle", walk, "+", cycle)
    rest = w.step("the percentage who come by bus", 100, "-", both)
    w.step("the pupils on the bus", pupils, "*", rest, "/", 100)
    return w.problem(
        f"Of the {pupils} pupils at a school {walk}% walk there, {cycle}% cycle and the others take the bus. How many "
        f"bus passengers is that?",
        "{} pupils",
    )


def print_shop(r: random.Random) -> Problem:
    pages, speed, minutes = r.choice([12, 16, 24, 32]), r.choice([20, 30, 40]), r.randint(2, 5)
    copies = r.choice([60, 120, 180, 240])
    w = Work()
    total = w.step("the sheets to print", pages, "*", copies)
    printing = w.step("the minutes of printing", total, "/", speed)
    w.step("the minutes with set-up", printing, "+", minutes)
    return w.problem(
        f"A print shop needs {copies} copies of a {pages}-sheet booklet. The machine takes {minutes} minutes to set up "
        f"and then prints {speed} sheets a minute. When is the job done, in minutes?",
        "{} minutes",
    )


def lemonade(r: random.Random) -> Problem:
    a, b = r.sample(PEOPLE, 2)
    cups, lemons, sugar = 2 * r.randint(15, 30), r.randint(6, 11), r.randint(2, 5)
    price = r.choice([Fraction(1), Fraction(3, 2), Fraction(2)])
    w = Work()
    income = w.step("the income", cups, "*", price)
    spent = w.step("the spending", lemons, "+", sugar)
    gain = w.step("the profit", income, "-", spent)
    w.step("the share of each child", gain, "/", 2)
    return w.problem(
        f"{a.name} and {b.name} sell {cups} glasses of lemonade at ${float(price):.2f}. The lemons cost them ${lemons} "
        f"and the sugar ${sugar}. They split the profit evenly; what does each receive?",
        "${}",
    )


STORIES = (
    concert_hall,
    sponsored_run,
    honey,
    candles,
    joiner,
    training_plan,
    pizza,
    quilt,
    aquarium,
    ferry,
    dog_food,
    piggy_bank,
    way_to_school,
    print_shop,
    lemonade,
)
