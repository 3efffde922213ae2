"""More word-problem stories for the demo's pool; the first part is arithmetic_pool."""

from __future__ import annotations

import random
from fractions import Fraction

from .arithmetic import PEOPLE, Problem, Work, number


def cistern(r: random.Random) -> Problem:
    leak, net, minutes, start = r.randint(2, 5), r.randint(6, 12), r.randint(8, 20), r.choice([20, 30, 45, 60])
    w = Work()
    missing = w.step("the litres still missing", start + net * minutes, "-", start)
    gain = w.step("the litres gained each minute", net + leak, "-", leak)
    w.step("the minutes needed", missing, "/", gain)
    return w.problem(
        f"A rainwater tank for {start + net * minutes} litres already contains {start}. A hose adds {net + leak} "
        f"litres a minute while a crack loses {leak}. How long until the tank is full?",
        "{} minutes",
    )


def scores(r: random.Random) -> Problem:
    a, b = r.sample(PEOPLE, 2)
    base, factor, extra = r.randint(9, 20), r.choice([2, 3]), r.randint(3, 8)
    game = r.choice(["a basketball match", "a video game", "a quiz night", "an archery contest"])
    w = Work()
    times = w.step(f"{factor} times {a.name}'s score", base, "*", factor)
    other = w.step(f"{b.name}'s score", times, "+", extra)
    w.step("the joint score", other, "+", base)
    word = "twice" if factor == 2 else "three times"
    return w.problem(
        f"During {game} {a.name} collects {base} points. {b.name} gets {extra} points more than {word} as many. How "
        f"many points do they have together?",
        "{} points",
    )


def ratio(r: random.Random) -> Problem:
    (left, right), unit = r.choice([(2, 3), (3, 4), (3, 5), (4, 5)]), r.randint(6, 15)
    one, two = r.choice([("red", "white"), ("blue", "yellow"), ("green", "black")])
    w = Work()
    parts = w.step("the number of parts", left, "+", right)
    each = w.step("the size of a part", (left + right) * unit, "/", parts)
    w.step(f"the {two} balloons", each, "*", right)
    return w.problem(
        f"For a party, {one} and {two} balloons are blown up in the ratio {left}:{right}. There are "
        f"{(left + right) * unit} balloons in total. How many are {two}?",
        "{} balloons",
    )


def exam_average(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    goal = r.choice([80, 82, 84, 85])
    one, two, three = (goal + r.choice([-9, -6, -5, -3, -2, 1, 2, 4, 5]) for _ in range(3))
    w = Work()
    so_far = w.step("the points so far", one, "+", two, "+", three)
    total = w.step("the points needed in four tests", goal, "*", 4)
    w.step("the score for the fourth test", total, "-", so_far)
    return w.problem(
        f"{p.name} scored {one}, {two} and {three} in three tests. Which score in the fourth test would give "
        f"{p.their} four results an average of exactly {goal}?",
        "{} points",
    )


def phone_plan(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    fixed, cents, free = r.choice([9, 12, 15, 18]), r.choice([5, 10, 15, 20]), r.choice([60, 100, 120])
    over = r.randint(15, 70)
    w = Work()
    extra = w.step("the minutes to pay for", free + over, "-", free)
    cost = w.step("the price of those minutes", extra, "*", Fraction(cents, 100))
    w.step("the monthly bill", cost, "+", fixed)
    return w.problem(
        f"A phone contract costs ${fixed} a month including {free} minutes; every further minute is "
        f"${number(Fraction(cents, 100))}. {p.name} talks for {free + over} minutes in March. What is the bill?",
        "${}",
    )


def parking(r: random.Random) -> Problem:
    first, further, hours = r.choice([3, 4, 5]), Fraction(r.choice([3, 4, 5]), 2), r.randint(4, 9)
    days = r.randint(2, 5)
    w = Work()
    rest = w.step("the hours after the first", hours, "-", 1)
    more = w.step("the price of those hours", rest, "*", further)
    daily = w.step("the price of one day", more, "+", first)
    w.step("the price of all days", daily, "*", days)
    return w.problem(
        f"Parking near the clinic costs ${first} for the first hour and ${number(further)} for each hour after it. "
        f"Someone parks there for {hours} hours on {days} days. How much is that in all?",
        "${}",
    )


def cinema(r: random.Random) -> Problem:
    child, adult = r.choice([5, 6, 7]), r.choice([9, 10, 11, 12])
    seats, kids = r.randint(90, 140), r.randint(35, 60)
    show = r.choice(["A matinee", "A puppet show", "A school concert", "A circus evening"])
    w = Work()
    grown = w.step("the adults", seats, "-", kids)
    a = w.step("the income from adults", grown, "*", adult)
    b = w.step("the income from children", kids, "*", child)
    w.step("the income from everyone", a, "+", b)
    return w.problem(
        f"{show} is watched by {seats} people, {kids} of them children. Adults pay ${adult} and children ${child}. How "
        f"much is taken at the door?",
        "${}",
    )


def bug_list(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    new, fixed, days = r.randint(2, 4), r.randint(6, 9), r.randint(4, 8)
    start = r.randint(30, 50) + (fixed - new) * days
    w = Work()
    daily = w.step("the bugs the list loses each day", fixed, "-", new)
    total = w.step("the bugs it loses altogether", daily, "*", days)
    w.step("the bugs still open", start, "-", total)
    return w.problem(
        f"{p.name}'s software team has {start} open bugs. Every day the programmers fix {fixed} bugs, but {new} new "
        f"ones are reported. How many are open after {days} days?",
        "{} bugs",
    )


def rope(r: random.Random) -> Problem:
    piece, pieces, lost = r.choice([45, 60, 75, 80]), r.randint(6, 12), r.randint(10, 40)
    metres = Fraction(-(-(piece * pieces + lost) // 50), 2)
    w = Work()
    length = w.step("the length in centimetres", metres, "*", 100)
    used = w.step("the centimetres cut off", piece, "*", pieces)
    w.step("the centimetres left", length, "-", used)
    thing = r.choice(["rope", "ribbon", "copper wire", "garden hose"])
    return w.problem(
        f"From a {number(metres)} m length of {thing}, {pieces} pieces of {piece} cm are cut. How many centimetres "
        f"remain?",
        "{} cm",
    )


def tablets(r: random.Random) -> Problem:
    per_day, strips, each = r.choice([2, 3, 4]), r.randint(4, 8), r.choice([12, 24])
    given = r.choice([12, 24, 36])
    w = Work()
    total = w.step("the tablets in the box", strips, "*", each)
    left = w.step("the tablets after the gift", total, "-", given)
    w.step("the days they last", left, "/", per_day)
    return w.problem(
        f"A box of vitamins has {strips} strips of {each} tablets. The owner gives {given} tablets to a friend and "
        f"takes {per_day} a day. For how many days does the rest last?",
        "{} days",
    )


def commute(r: random.Random) -> Problem:
    p = r.choice(PEOPLE)
    walk, ride, wait, days = r.randint(6, 15), r.randint(18, 35), r.randint(3, 9), r.choice([3, 4, 5])
    w = Work()
    one = w.step("the minutes for one way", walk, "+", wait, "+", ride)
    both = w.step("the minutes for a day", one, "*", 2)
    w.step("the minutes for the week", both, "*", days)
    return w.problem(
        f"To reach the office {p.name} walks {walk} minutes, waits {wait} for the tram and rides it for {ride}. The "
        f"way home takes just as long. How many minutes go into commuting in a week with {days} working days?",
        "{} minutes",
    )


STORIES = (cistern, scores, ratio, exam_average, phone_plan, parking, cinema, bug_list, rope, tablets, commute)
