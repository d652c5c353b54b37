# ruff: noqa: SIM905 -- word lists and phrasings are data
"""Names and values of the synthetic facts, split into training and evaluation by a hash of the string.

Most names are made of syllables, so that a held-out name is a string no training document contains.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "eval"]
Maker = Callable[[random.Random], str]

EVAL_SHARE = 8
"""One string in this many belongs to the evaluation split."""

WOMEN = (
    "Alice Anna Beatrice Carla Clara Diana Edith Elena Ella Emma Erika Fiona Grace Greta Hannah Helen Ines "
    "Irene Isabel Ivy Jana Jane Julia Karen Kate Laura Lena Lily Linda Lucy Maria Marta Mary Maya Mia Mona "
    "Nadia Nina Nora Olga Olivia Paula Petra Rachel Rita Rosa Ruth Sara Sofia Susan Tara Tessa Vera Wendy "
    "Yara Zoe Amina Priya Mei Aiko Fatima Leila Ingrid Astrid Chloe Daphne Eva Flora Gina Holly"
).split()
MEN = (
    "Adam Alan Albert Andrew Anton Arthur Ben Boris Carl Chris Daniel David Dennis Derek Edward Eric Felix "
    "Frank Fred George Gustav Harry Henry Hugo Ian Igor Ivan Jack Jacob James Jan John Jonas Karl Kevin Leo "
    "Louis Lucas Marco Mark Martin Max Michael Milan Nathan Neil Nick Noah Oliver Oscar Otto Patrick Paul "
    "Peter Ralph Robert Roman Samuel Simon Stefan Steven Theo Thomas Tim Tom Victor Walter William Omar Ravi "
    "Hiro Chen Ahmed Tariq"
).split()
SURNAMES = (
    "Adams Baker Barnes Bauer Bell Bennett Berg Blake Brown Carter Chen Clark Cole Cooper Costa Cruz Davis "
    "Diaz Dixon Evans Fischer Ford Foster Fox Garcia Gray Green Hall Hansen Harris Hart Hill Hughes Hunt "
    "Ivanov Jensen Jones Kaur Keller Kelly Khan Kim King Klein Kovacs Kumar Lane Larsen Lee Lopez Marsh "
    "Martin Mason Meyer Miller Moore Moreno Morgan Murphy Nguyen Novak Nowak Okafor Olsen Ortiz Owen Park "
    "Parker Patel Perez Petrov Price Reed Reyes Rossi Russo Sato Schmidt Scott Shah Silva Singh Smith Stone "
    "Tanaka Taylor Torres Turner Vogel Walker Ward Weber West White Wood Wright Yang Young Zhang"
).split()
CITIES = (
    "Lisbon Oslo Berlin Madrid Rome Paris London Vienna Prague Dublin Warsaw Athens Cairo Lagos Nairobi Tokyo "
    "Osaka Seoul Delhi Mumbai Sydney Perth Toronto Boston Chicago Denver Austin Seattle Lima Quito Bogota "
    "Santiago Zurich Geneva Milan Turin Naples Porto Seville Bilbao Lyon Nice Hamburg Munich Leipzig Bremen "
    "Ghent Bruges Riga Vilnius Tallinn Helsinki Bergen Aarhus Krakow Budapest Sofia Belgrade Zagreb Split "
    "Leeds York Bristol Cardiff Glasgow Dundee Cork Galway Utrecht Leiden Basel Bern"
).split()
JOBS = (
    "carpenter|nurse|teacher|plumber|lawyer|baker|pilot|chemist|surgeon|librarian|gardener|painter|"
    "electrician|translator|journalist|photographer|accountant|architect|dentist|geologist|violinist|"
    "bus driver|data analyst|software engineer|civil engineer|graphic designer|project manager|tax adviser|"
    "sound technician|midwife|pharmacist|firefighter|tailor|mechanic|welder|botanist|economist|biologist|"
    "cook|waiter|florist|editor|museum guide|train conductor|radio host|security guard|product designer|"
    "sales manager|lab assistant|physiotherapist|optician|actor|historian|judge|locksmith|jeweller|beekeeper|"
    "postman|research assistant"
).split("|")
COLOURS = (
    "red blue green yellow orange purple pink brown black white grey silver gold turquoise beige navy maroon "
    "violet teal cream olive crimson amber lilac tan bronze scarlet indigo mint peach khaki ivory lavender mustard"
).split()
FOODS = (
    "pizza|lasagne|sushi|ramen|falafel|paella|pancakes|dumplings|goulash|risotto|tacos|curry|apple pie|"
    "fish soup|lentil soup|fried rice|mushroom stew|cheesecake|potato salad|spinach pie|noodles|gnocchi|"
    "moussaka|chocolate cake|roast chicken|pea soup|grilled salmon|carrot cake|bean stew|onion soup|"
    "spaghetti|fried eggs|meatballs|fish and chips|pumpkin soup|chicken curry|tomato soup|beef stew|burritos|"
    "hummus|waffles|ravioli|"
    "baked potatoes|vegetable soup|omelettes|porridge|schnitzel|"
    "ice cream|strawberry cake|macaroni and cheese|kebab|quiche"
).split("|")
DRINKS = (
    "green tea|black coffee|espresso|orange juice|lemonade|mint tea|hot chocolate|apple juice|ginger beer|"
    "oat milk|sparkling water|iced tea|tomato juice|cider|cappuccino|red wine|root beer|herbal tea|"
    "buttermilk|grape juice|latte|coconut water|rooibos|kefir"
).split("|")
ALLERGENS = (
    "peanuts|shellfish|gluten|pollen|cats|dust|penicillin|strawberries|walnuts|soy|eggs|milk|sesame|"
    "bee stings|latex|mustard|kiwi|celery|mould|hazelnuts|nickel|aspirin|lupin|horses|almonds|wool"
).split("|")
HOBBIES = (
    "chess|climbing|pottery|knitting|rowing|birdwatching|astronomy|origami|fencing|painting|cycling|"
    "photography|gardening|archery|sailing|baking|skiing|surfing|calligraphy|juggling|tennis|badminton|"
    "woodwork|running|yoga|fishing|swimming|judo|dancing|bowling|table tennis|model trains|stamp collecting"
).split("|")
LANGUAGES = (
    "Spanish Portuguese French German Italian Dutch Danish Swedish Norwegian Finnish Polish Czech Hungarian "
    "Greek Turkish Arabic Hebrew Hindi Urdu Tamil Korean Japanese Mandarin Vietnamese Swahili Russian "
    "Ukrainian Romanian"
).split()
ANIMALS = (
    "dog|cat|parrot|rabbit|hamster|horse|turtle|goldfish|pony|canary|ferret|guinea pig|gecko|"
    "tortoise|budgie|snake|lizard|mouse|donkey|goat|"
    "sheep|duck|chicken|puppy|kitten|"
    "chinchilla|frog|cockatoo|iguana|poodle|terrier|beagle|spider|hedgehog|goose|pig|llama|rat"
).split("|")
THINGS = (
    "lamp desk chair kettle backpack bicycle camera printer toaster blanket mug scooter tent helmet jacket "
    "notebook speaker monitor keyboard router drill ladder sofa mirror clock heater blender vase shelf "
    "umbrella wallet guitar"
).split()
ADJECTIVES = (
    "small large old new north south east west upper lower main back front inner outer blue red green grey quiet"
).split()
ROOMS = (
    "server room|garage|storage room|laboratory|archive|boiler room|workshop|gym|print room|mail room|"
    "staff room|kitchen|basement|roof terrace|library|gate|warehouse|loading dock|meeting room|safe|"
    "bike shed|clinic|studio|vault|cellar|lounge|greenhouse|chapel|reading room|tool shed"
).split("|")
VENUES = (
    "Cafe Library Museum Bakery Pharmacy Gallery Hotel Clinic Gym Bookshop Theatre Market Restaurant Garage "
    "Cinema School Hostel Pool Archive Studio"
).split()
STREETS = ("Street Road Lane Avenue Square Way Court Row Drive Alley").split()
EVENTS = (
    "budget review|team meeting|yoga class|book club|board meeting|choir rehearsal|design workshop|"
    "safety training|staff lunch|job interview|product launch|sales call|parents evening|fire drill|"
    "chess tournament|press briefing|garden party|code review|planning session|first aid course|wine tasting|"
    "guided tour|poetry reading|science fair|charity run|cooking class|farewell party|annual audit|"
    "pottery course|film night|blood drive|project kickoff|language class|street market|quiz night|"
    "dance lesson|museum visit|roof inspection"
).split("|")
COMPANY_ENDS = ("Labs Systems Group Partners Logistics Foods Energy Motors Media Bank Textiles Works").split()
MONTHS = ("January February March April May June July August September October November December").split()
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
STATUSES = ("shipped|pending|delivered|cancelled|on hold|returned|packed|paid|delayed|refunded|lost|in transit").split(
    "|"
)
MATERIALS = ("oak steel bamboo leather wool glass cotton aluminium plastic copper linen ceramic pine cork silk").split()

JOB_ENDS = ("er", "ist", "ologist", " maker", " teacher", " engineer", " seller", " dealer", "")
FOOD_ENDS = (" soup", " pie", " stew", " cake", " rice", " salad", " curry", " bread", "", "s")
DRINK_ENDS = (" tea", " juice", " coffee", " beer", " milk", " wine", "ade", "")
HOBBY_ENDS = ("ing", "ing", " collecting", "ball", " dancing", "")
THING_ENDS = ("", "", "er", " box", " set", "s")

_VOWEL_LETTERS, _CONSONANT_LETTERS = "aeiou", "bcdfghjklmnpqrstvwxyz"
_KINDS = frozenset("the room hall new port san lower bay error".split()) | {
    word.lower() for word in (*STREETS, *VENUES, *COMPANY_ENDS)
}

_ONSETS = ("b br c ch cl d dr f fl g gr h j k kr l m n p pr qu r s sh sk sl st t th tr v w z bl gl sp y").split()
_VOWELS = ("a e i o u a e i o u a e i o ai ea ee ia io ou").split()
_CODAS = ("n r l s t m nd rk ck ll st x th rn ng d k p b sk lt").split()


def _crc(text: str) -> int:
    return zlib.crc32(text.lower().encode())


def _listed_for_eval() -> frozenset[str]:
    """Return the listed strings of the evaluation split: at least two of every list."""
    lists: tuple[list[str], ...] = (
        WOMEN,
        MEN,
        SURNAMES,
        CITIES,
        JOBS,
        COLOURS,
        FOODS,
        DRINKS,
        ALLERGENS,
        HOBBIES,
        LANGUAGES,
        ANIMALS,
    )
    lists += (THINGS, ROOMS, EVENTS, STATUSES, MATERIALS)
    return frozenset(text for pool in lists for text in sorted(pool, key=_crc)[: max(2, len(pool) // EVAL_SHARE)])


_LISTED = frozenset((*WOMEN, *MEN, *SURNAMES, *CITIES, *JOBS, *COLOURS, *FOODS, *DRINKS, *ALLERGENS, *HOBBIES)) | (
    frozenset((*LANGUAGES, *ANIMALS, *THINGS, *ROOMS, *EVENTS, *STATUSES, *MATERIALS))
)
_LISTED_FOR_EVAL = _listed_for_eval()


def in_split(text: str, split: Split) -> bool:
    """Tell whether a string belongs to a split: by its list, else one made-up string in eight is for evaluation.

    The days of the week are in both.
    """
    if text in WEEKDAYS:
        return True
    held = text in _LISTED_FOR_EVAL if text in _LISTED else _crc(text) % EVAL_SHARE == 0
    return held == (split == "eval")


@dataclass(frozen=True, slots=True)
class Pool:
    """Where names and values are drawn from.

    Attributes:
        split: Which strings belong to it.
        respelled: Share of the strings without digits that get other letters, so that hardly any comes twice.
    """

    split: Split = "train"
    respelled: float = 0.0

    def draw(self, rng: random.Random, make: Maker) -> str:
        """Draw strings from ``make`` until one belongs to the pool."""
        while True:
            text = make(rng)
            if self.respelled and rng.random() < self.respelled:
                text = respell(rng, text)
            if in_split(text, self.split):
                return text


def respell(rng: random.Random, text: str) -> str:
    """Exchange some letters: ``Vera Cole`` becomes ``Vira Colm``. Digits, and what says of what kind it is, stay."""
    if text in WEEKDAYS or any(letter.isdigit() for letter in text):
        return text
    return re.sub("[A-Z]?[a-z]{2,}", lambda word: _respelled(rng, word[0]), text)


def _respelled(rng: random.Random, word: str) -> str:
    if word.lower() in _KINDS:
        return word
    letters = []
    for letter in word.lower():
        alike = _VOWEL_LETTERS if letter in _VOWEL_LETTERS else _CONSONANT_LETTERS
        letters.append(rng.choice(alike) if rng.random() < 0.4 else letter)
        if rng.random() < 0.05:
            letters.append(rng.choice(alike))
    made = "".join(letters)
    return made.capitalize() if word[0].isupper() else made


def choice(pool: Sequence[str]) -> Maker:
    """Return a maker that draws from a list."""
    return lambda rng: rng.choice(pool)


def open_choice(pool: Sequence[str], ends: Sequence[str]) -> Maker:
    """Return a maker that draws from a list or makes a word up, so that an answer cannot be guessed from the list."""

    def make(rng: random.Random) -> str:
        return rng.choice(pool) if rng.random() < 0.5 else word(rng, 1, 3) + rng.choice(ends)

    return make


def word(rng: random.Random, low: int = 1, high: int = 3) -> str:
    """Return a made-up lower-case word of ``low`` to ``high`` syllables."""
    parts = []
    for _ in range(min(rng.randint(low, high), rng.randint(low, high))):
        parts.append((rng.choice(_ONSETS) if rng.random() < 0.9 else "") + rng.choice(_VOWELS))
    return "".join(parts) + (rng.choice(_CODAS) if rng.random() < 0.6 else "")


def made_name(rng: random.Random) -> str:
    """Return a made-up capitalised word of at least three letters."""
    while len(text := word(rng, 1, 3)) < 3:
        pass
    return text.capitalize()


def surname(rng: random.Random) -> str:
    """Return a family name, real or made of syllables."""
    if rng.random() < 0.35:
        return rng.choice(SURNAMES)
    ends = ("", "", "", "son", "er", "ova", "ez", "man", "ski", "ley", "ini", "sen", "berg", "ton", "o", "well")
    return made_name(rng) + rng.choice(ends)


def city(rng: random.Random) -> str:
    """Return a town, real or made of syllables."""
    if rng.random() < 0.4:
        return rng.choice(CITIES)
    ends = ("ville", "ton", "burg", "field", "ford", "stad", "port", " Bay", "mouth", "wick", "", "by", "ham", "a")
    name = made_name(rng) + rng.choice(ends)
    return rng.choice(("", "", "", "", "New ", "Port ", "San ", "Lower ")) + name


def language(rng: random.Random) -> str:
    """Return a language, real or made of syllables."""
    return rng.choice(LANGUAGES) if rng.random() < 0.5 else made_name(rng) + rng.choice(("ish", "ian", "ese", "i", ""))


def company(rng: random.Random) -> str:
    """Return a company name."""
    base = made_name(rng) if rng.random() < 0.8 else rng.choice(SURNAMES)
    return base if rng.random() < 0.2 else f"{base} {rng.choice(COMPANY_ENDS)}"


def code(rng: random.Random) -> str:
    """Return an identifier such as ``XK-4471-B`` in one of many shapes."""
    shapes: tuple[str, ...] = (
        "AA-0000-A",
        "AA-0000",
        "0000",
        "00000",
        "000000",
        "A00-A00",
        "AAA-000",
        "A-0000",
        "AA00AA",
        "0000-AA",
    )
    shapes += ("AA-00-000", "aa0a00", "A0A0A0", "#0000", "000-000", "AAA0000", "A000", "00-AA-00", "AAAA-00", "aaa-000")
    letters, lower = "ABCDEFGHJKLMNPQRSTUVWXYZ", "abcdefghjkmnpqrstuvwxyz"
    swap = {"A": letters, "a": lower, "0": "0123456789"}
    return "".join(rng.choice(swap[c]) if c in swap else c for c in rng.choice(shapes))


def password(rng: random.Random) -> str:
    """Return a password of words, digits and signs."""
    a, b = word(rng, 1, 2), rng.choice((word(rng, 1, 2), rng.choice(COLOURS), rng.choice(THINGS)))
    number = str(rng.randint(1, 9999))
    form = rng.choice(("{a}-{b}-{n}", "{a}{n}", "{A}{B}{n}", "{b}_{a}_{n}", "{a}.{b}", "{A}{n}!", "{a}{b}", "{b}#{n}"))
    return form.format(a=a, b=b, A=a.capitalize(), B=b.capitalize(), n=number)


def phone(rng: random.Random) -> str:
    """Return a telephone number in one of several formats."""
    forms = ("555-0000", "0000 000000", "+00 000 0000", "000-000-0000", "00 00 00 00", "000 0000", "(000) 000-0000")
    return "".join(str(rng.randint(0, 9)) if c == "0" else c for c in rng.choice(forms))


def price(rng: random.Random) -> str:
    """Return an amount of money in one of several formats."""
    whole, cents = rng.choice((rng.randint(1, 99), rng.randint(1, 999), rng.randint(100, 9999))), rng.randint(0, 99)
    form = rng.choice(
        (
            "${w}",
            "${w}.{c:02d}",
            "€{w}",
            "€{w}.{c:02d}",
            "£{w}",
            "{w} euros",
            "{w} dollars",
            "{w}.{c:02d} EUR",
            "{w} USD",
        )
    )
    return form.format(w=whole, c=cents)


def clock(rng: random.Random) -> str:
    """Return a time of day."""
    hour, minute = rng.randint(0, 23), rng.choice((0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55))
    half = "am" if hour < 12 else "pm"
    short = f"{(hour - 1) % 12 + 1}"
    forms = (f"{hour:02d}:{minute:02d}", f"{hour}:{minute:02d}", f"{short}:{minute:02d} {half}", f"{short} {half}")
    return rng.choice(forms)


def date(rng: random.Random) -> str:
    """Return a date, with or without a year."""
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1950, 2031)
    name = MONTHS[month - 1]
    forms = (f"{day} {name}", f"{name} {day}", f"{day} {name} {year}", f"{name} {day}, {year}")
    return rng.choice((*forms, f"{year}-{month:02d}-{day:02d}"))


def address(rng: random.Random) -> str:
    """Return a house number and street."""
    base = rng.choice((made_name(rng), rng.choice(SURNAMES), rng.choice(THINGS).capitalize()))
    return f"{rng.randint(1, 299)} {base} {rng.choice(STREETS)}"


def duration(rng: random.Random) -> str:
    """Return a length of time."""
    return rng.choice((f"{rng.randint(2, 95)} minutes", f"{rng.randint(2, 30)} hours", f"{rng.randint(2, 30)} days"))


def room(rng: random.Random) -> str:
    """Return the name of a room."""
    forms = (f"room {rng.randint(1, 499)}", f"Room {rng.choice('ABCDEFGH')}{rng.randint(1, 60)}")
    return rng.choice((*forms, f"the {made_name(rng)} room", f"{made_name(rng)} Hall", f"the {rng.choice(ROOMS)}"))
