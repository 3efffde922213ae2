"""The word-problem stories of the demo's pool. The target's stories are others: see arithmetic_target."""

from __future__ import annotations

import random

from .arithmetic import PEOPLE, Problem, Work


def muffins(r: random.Random) -> Problem:
    bake = r.choice(["muffins", "scones", "bread rolls", "cupcakes"])
    trays, per_tray, box = r.randint(5, 9), r.choice([12, 15, 18, 20]), r.choice([4, 6])
    boxes = r.randint(4, 8)
    sold = trays * per_tray - boxes * box
    w = Work()
    made = w.step(f"the {bake} baked", trays, "*", per_tray)
    left = w.step(f"the {bake} left over", made, "-", sold)
    w.step("the boxes filled", left, "/", box)
    return w.problem(
        f"A bakery makes {trays} trays of {per_tray} {bake} and sells {sold} of them before noon. The rest are packed "
        f"into boxes of {box}. How many boxes are filled?",
        "{} boxes",
    )


def saving(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    thing = r.choice(["a skateboard", "a guitar", "a pair of headphones", "a second-hand bike"])
    chores, walk, weeks, start = r.randint(4, 9), r.randint(5, 11), r.randint(5, 12), r.randint(10, 40)
    price = start + weeks * (chores + walk)
    w = Work()
    missing = w.step("the money still missing", price, "-", start)
    weekly = w.step("the weekly income", chores, "+", walk)
    w.step("the weeks needed", missing, "/", weekly)
    return w.problem(
        f"{p.name} wants {thing} that costs ${price} and has ${start} in a jar. Each week {p.they} gets ${chores} for "
        f"chores and ${walk} for walking a neighbour's dog. After how many weeks can {p.they} buy it?",
        "{} weeks",
    )


def bus(r: random.Random) -> Problem:
    start, off1, on1, off2 = r.randint(28, 45), r.randint(5, 12), r.randint(3, 14), r.randint(4, 11)
    w = Work()
    first = w.step("the passengers after the first stop", start, "-", off1, "+", on1)
    second = w.step("the passengers after the second stop", first, "-", off2)
    w.step("the people on board including the driver", second, "+", 1)
    return w.problem(
        f"A bus leaves the depot with {start} passengers. At the first stop {off1} get off and {on1} get on; at the "
        f"second, {off2} get off. Counting the driver, how many people are on the bus now?",
        "{} people",
    )


def library(r: random.Random) -> Problem:
    shelves, per, out, back = r.randint(6, 12), r.randint(22, 35), r.randint(30, 60), r.randint(8, 25)
    day = r.choice(["Monday", "Tuesday", "Thursday"])
    w = Work()
    total = w.step("the books at the start", shelves, "*", per)
    left = w.step("the books after the loans", total, "-", out)
    w.step("the books after the returns", left, "+", back)
    return w.problem(
        f"The school library has {shelves} shelves with {per} books on each. On {day} the pupils borrow {out} books "
        f"and bring back {back} older loans. How many books are on the shelves that evening?",
        "{} books",
    )


def class_trip(r: random.Random) -> Problem:
    students, teachers = r.randint(22, 36), r.randint(2, 5)
    ticket, adult = r.randint(4, 9), r.randint(10, 16)
    place = r.choice(["the planetarium", "a farm museum", "the aquarium", "an old lighthouse"])
    w = Work()
    a = w.step("the cost for the students", students, "*", ticket)
    b = w.step("the cost for the teachers", teachers, "*", adult)
    w.step("the cost for everyone", a, "+", b)
    return w.problem(
        f"{students} students and {teachers} teachers visit {place}. A student ticket is ${ticket} and an adult "
        f"ticket is ${adult}. What does the whole visit cost?",
        "${}",
    )


def vegetable_rows(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    rows1, each1, rows2, each2 = r.randint(6, 9), r.randint(11, 16), r.randint(3, 5), r.randint(7, 10)
    one, two = r.sample(["tomato", "pepper", "bean", "lettuce", "cabbage"], 2)
    w = Work()
    a = w.step(f"the {one} plants", rows1, "*", each1)
    b = w.step(f"the {two} plants", rows2, "*", each2)
    w.step("the difference", a, "-", b)
    return w.problem(
        f"In {p.their} garden {p.name} plants {rows1} rows of {each1} {one} plants and {rows2} rows of {each2} {two} "
        f"plants. How many more {one} plants than {two} plants are there?",
        "{} plants",
    )


def novel(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    daily, days, rest_days, rest = r.randint(12, 25), r.randint(4, 8), r.randint(3, 6), r.randint(18, 32)
    pages = daily * days + rest_days * rest
    w = Work()
    read = w.step("the pages already read", daily, "*", days)
    left = w.step("the pages left", pages, "-", read)
    w.step("the pages to read each day", left, "/", rest_days)
    return w.problem(
        f"{p.name} has read {daily} pages a day for {days} days of a novel with {pages} pages. To finish it in "
        f"{rest_days} more days, how many pages must {p.they} read each day?",
        "{} pages",
    )


def road_trip(r: random.Random) -> Problem:
    v1, h1, v2, h2 = r.choice([50, 60, 70]), r.randint(2, 4), r.choice([80, 90, 100, 110]), r.randint(2, 5)
    vehicle = r.choice(["van", "coach", "delivery truck", "camper"])
    w = Work()
    a = w.step("the distance on country roads", v1, "*", h1)
    b = w.step("the distance on the motorway", v2, "*", h2)
    w.step("the whole distance", a, "+", b)
    return w.problem(
        f"A {vehicle} drives for {h1} hours at {v1} km/h on country roads and then {h2} hours at {v2} km/h on the "
        f"motorway. How far does it travel altogether?",
        "{} km",
    )


def sale(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    item = r.choice(["a raincoat", "a desk lamp", "a backpack", "a tennis racket"])
    price, percent = r.choice([40, 60, 80]), r.choice([10, 15, 20, 25, 30])
    w = Work()
    cut = w.step("the reduction", price, "*", percent, "/", 100)
    pay = w.step("the sale price", price, "-", cut)
    w.step("the change", 100, "-", pay)
    return w.problem(
        f"{p.name} buys {item} marked at ${price}. Today everything in the shop is {percent}% off, and {p.they} pays "
        f"with a $100 note. How much change does {p.they} get?",
        "${}",
    )


def pancakes(r: random.Random) -> Problem:
    people, cups, factor = r.choice([4, 5, 6]), r.choice([2, 3]), r.randint(4, 7)
    have = r.randint(2, 6)
    w = Work()
    times = w.step("the number of batches", people * factor, "/", people)
    need = w.step("the cups of flour needed", times, "*", cups)
    w.step("the cups of flour to buy", need, "-", have)
    return w.problem(
        f"One batch of pancakes feeds {people} people and takes {cups} cups of flour. The scout leader is cooking for "
        f"{people * factor} people and already has {have} cups. How many more cups of flour are needed?",
        "{} cups",
    )


def pens(r: random.Random) -> Problem:
    friends, packs = r.choice([5, 7]), r.choice([2, 3, 4])
    per_pack = r.choice([size for size in range(12, 25) if size % friends])
    spare = packs * per_pack % friends
    thing = r.choice(["crayons", "pens", "stickers", "glass beads"])
    w = Work()
    have = w.step(f"the {thing} in all packs", packs, "*", per_pack)
    given = w.step(f"the {thing} handed out", have, "-", spare)
    w.step(f"the {thing} for each child", given, "/", friends)
    return w.problem(
        f"There are {packs} packs with {per_pack} {thing} in each. They are shared equally among {friends} children, "
        f"keeping back the {spare} that cannot be shared evenly. How many {thing} does each child get?",
        f"{{}} {thing}",
    )


def ages(r: random.Random) -> Problem:
    a, b = r.sample(PEOPLE, 2)
    young, gap, years = r.randint(6, 14), r.randint(3, 9), r.randint(4, 10)
    w = Work()
    old = w.step(f"{a.name}'s age today", young, "+", gap)
    w.step("the two ages together today", old, "+", young)
    w.step("the two ages together later", old + young, "+", years, "+", years)
    return w.problem(
        f"{b.name} is {young} and {a.name} is {gap} years older. What will their ages add up to {years} years from "
        f"now?",
        "{} years",
    )


def fence(r: random.Random) -> Problem:
    long, wide, price = r.randint(14, 30), r.randint(6, 13), r.randint(5, 12)
    animal = r.choice(["goats", "ducks", "alpacas", "ponies"])
    w = Work()
    half = w.step("one long and one short side", long, "+", wide)
    around = w.step("the way around the field", half, "*", 2)
    w.step("the price of the fence", around, "*", price)
    return w.problem(
        f"A farmer fences a rectangular field for {animal}, {long} m long and {wide} m wide. Fencing costs ${price} "
        f"per metre. How much must the farmer pay?",
        "${}",
    )


def tiles(r: random.Random) -> Problem:
    long, wide = r.randint(4, 9), r.randint(3, 6)
    per, pack = r.choice([4, 9, 16]), r.choice([2, 3])
    w = Work()
    area = w.step("the floor area in square metres", long, "*", wide)
    need = w.step("the tiles needed", area, "*", per)
    w.step("the price of the tiles", need, "*", pack)
    room = r.choice(["kitchen", "bathroom", "hallway", "workshop"])
    return w.problem(
        f"The {room} floor measures {long} m by {wide} m. Each square metre takes {per} tiles, and a tile costs "
        f"${pack}. How much do the tiles for the floor cost?",
        "${}",
    )


def laps(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    length, days = r.choice([25, 50]), r.randint(3, 6)
    count = r.choice([16, 20, 24, 28, 32, 40])
    w = Work()
    daily = w.step("the metres in one session", count, "*", length)
    week = w.step("the metres in the week", daily, "*", days)
    w.step("the distance in kilometres", week, "/", 1000)
    return w.problem(
        f"{p.name} trains in a {length}-metre pool and swims {count} lengths per session. With {days} sessions this "
        f"week, how many kilometres does {p.they} swim?",
        "{} km",
    )


def eggs(r: random.Random) -> Problem:
    dozens, price, weeks = r.randint(6, 12), r.choice([3, 4, 5]), r.randint(2, 4)
    hens, per_week = 2 * dozens, 6
    w = Work()
    laid = w.step("the eggs in one week", hens, "*", per_week)
    total = w.step("the eggs in the whole period", laid, "*", weeks)
    packs = w.step("the cartons", total, "/", 12)
    w.step("the income", packs, "*", price)
    return w.problem(
        f"{hens} hens lay {per_week} eggs each per week. The eggs go into cartons of 12 that sell for ${price} apiece. "
        f"How much money comes in over {weeks} weeks if every carton is sold?",
        "${}",
    )


def sticker_share(r: random.Random) -> Problem:
    a, b = r.sample(PEOPLE, 2)
    thing = r.choice(["marbles", "football cards", "seashells", "badges"])
    unit = r.randint(4, 12)
    total = unit * 6
    w = Work()
    third = w.step(f"the {thing} given to the cousin", total, "/", 3)
    left = w.step(f"the {thing} left after that", total, "-", third)
    half = w.step(f"the {thing} given to {b.name}", left, "/", 2)
    w.step(f"the {thing} {a.name} keeps", left, "-", half)
    return w.problem(
        f"{a.name} owns {total} {thing}. One third go to a cousin, and half of what remains goes to {b.name}. How many "
        f"does {a.name} keep?",
        f"{{}} {thing}",
    )


def temperature(r: random.Random) -> Problem:
    start, up, down = r.randint(3, 9), r.randint(8, 15), r.randint(3, 7)
    w = Work()
    noon = w.step("the noon temperature", start, "+", up)
    evening = w.step("the evening temperature", noon, "-", down)
    w.step("the rise over the day", evening, "-", start)
    return w.problem(
        f"At sunrise the thermometer shows {start} °C. By noon it has climbed {up} degrees, and by evening it has "
        f"dropped {down}. How many degrees warmer is the evening than sunrise?",
        "{} degrees",
    )


def overtime(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    rate, hours, extra = r.choice([12, 14, 16, 18]), r.choice([30, 35, 40]), r.randint(3, 8)
    bonus = r.choice([4, 6, 8])
    w = Work()
    base = w.step("the normal pay", rate, "*", hours)
    high = w.step("the overtime rate", rate, "+", bonus)
    late = w.step("the overtime hours", hours + extra, "-", hours)
    more = w.step("the overtime pay", high, "*", late)
    w.step("the pay for the week", base, "+", more)
    return w.problem(
        f"At the garage {p.name} earns ${rate} an hour for the first {hours} hours of the week and ${bonus} more per "
        f"hour after that. What is {p.their} pay for a week of {hours + extra} hours?",
        "${}",
    )


STORIES = (
    muffins,
    saving,
    bus,
    library,
    class_trip,
    vegetable_rows,
    novel,
    road_trip,
    sale,
    pancakes,
    pens,
    ages,
    fence,
    tiles,
    laps,
    eggs,
    sticker_share,
    temperature,
    overtime,
)
