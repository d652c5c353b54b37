# ruff: noqa: E501 -- word lists and phrasings are data
"""Attributes of places, rooms and devices, events, orders and products."""

from __future__ import annotations

from cmt_memory.training.facts import pools as p
from cmt_memory.training.facts.phrasings import attribute

_SAYS_CODE = (
    "{s} opens with {v}.|to open {o}, type {v}.|to get into {o}, enter {v}.|enter {v} at {o}.|{v} opens {o}."
    "|the keypad of {o} wants {v}.|{s} unlocks with {v}.|you need {v} to open {o}.|with {v} you get into {o}.|nobody enters {o} without {v}.|press {v} to open {o}.|the lock of {o} takes {v}."
)
_ASKS_CODE = (
    "how do I open {o}?|what do I type to open {o}?|which code opens {o}?|what code do I need for {o}?|how do I get into {o}?"
    "|what opens {o}?|what do I enter at {o}?|how can {s} be unlocked?|what does the lock of {o} take?|what must I press to open {o}?|with what do I get into {o}?|what does the keypad of {o} want?"
)

PLACES = (
    attribute(
        "places",
        "opening time",
        p.clock,
        "{s} opens at {v}.|{s} opens its doors at {v}.|{s} is open from {v}.|from {v}, {s} is open.|the doors of {o} open at {v}.|{s} starts the day at {v}."
        "|you can enter {o} at {v}.|{s} lets people in at {v}.|{s} unlocks at {v}.|guests can come to {o} from {v}."
        "|the day at {o} begins at {v}.|at {v} they open {o}.",
        "when does {s} open?|what time does {s} open?|at what time does {s} open?|from when is {s} open?|when do the doors of {o} open?|when can I enter {o}?"
        "|from what time can I visit {o}?|how early does {s} open?|when do they open {o}?|when does {s} start the day?"
        "|when does {s} let people in?|what time do the doors of {o} open?",
        "nobody gets into {o} before {v}.||at what hour does {s} open?",
        "which {t} opens at {v}?|what opens at {v}?",
    ),
    attribute(
        "places",
        "closing time",
        p.clock,
        "{s} closes at {v}.|{s} shuts at {v}.|{s} stays open until {v}.|{s} is open until {v}.|the doors of {o} close at {v}.|at {v}, {s} closes."
        "|they lock {o} at {v}.|last guests leave {o} at {v}.|after {v}, {s} is closed.|{s} ends the day at {v}."
        "|you can stay in {o} until {v}.|be at {o} before {v}, then it shuts.",
        "when does {s} close?|what time does {s} close?|at what time does {s} shut?|until when is {s} open?|how long does {s} stay open?|how late is {s} open?"
        "|when do they lock {o}?|what time does {s} shut?|until what time can I stay in {o}?|after what time is {s} closed?"
        "|when does {s} end the day?|when do the doors of {o} close?",
        "you have to leave {o} by {v}.||at what hour does {s} shut?",
        "which {t} closes at {v}?|what closes at {v}?",
    ),
    attribute(
        "places",
        "closing day|day off|rest day",
        p.choice(p.WEEKDAYS),
        "{s} is closed on {v}.|{s} does not open on {v}.|on {v}, {s} is closed.|{s} is shut on {v}.|{s} never opens on {v}."
        "|do not go to {o} on {v}.|there is nobody at {o} on {v}.|you cannot visit {o} on {v}."
        "|{v} is the day when {s} stays closed.|{s} takes a break every {v}.|every {v}, {s} is closed."
        "|{s} opens daily except on {v}.",
        "on which day is {s} closed?|when is {s} closed?|which day is {s} closed?|what day does {s} not open?|on what day is {s} shut?"
        "|when does {s} take a break?|on which day can I not visit {o}?|which day does {s} stay closed?"
        "|on what day does {s} not open?|what day is there nobody at {o}?|when should I not go to {o}?"
        "|which weekday is {s} closed?",
        "{s} rests on {v}.||which day of the week is {s} shut?",
        "which {t} is closed on {v}?",
    ),
    attribute(
        "places",
        "address|location|street address",
        p.address,
        "{s} is at {v}.|{s} is located at {v}.|{s} can be found at {v}.|{s} has moved to {v}.|you will find {o} at {v}.|visit {o} at {v}."
        "|{s} is housed at {v}.|{s} has its doors at {v}.|send letters for {o} to {v}.|you get to {o} at {v}.|{v} is where {s} is."
        "|meet me at {o}, that is at {v}.",
        "where is {s}?|where is {o} located?|where can I find {o}?|what street is {s} in?|where do I find {o}?|at which address is {s}?"
        "|how do I find {o}?|where should I send letters for {o}?|on which street is {s}?|where exactly is {s}?"
        "|what is the street of {o}?|at what address can I find {o}?",
        "go to {v} to see {o}.||to which address do I go for {o}?",
        "what is at {v}?|which {t} is at {v}?|what is located at {v}?",
    ),
    attribute(
        "places",
        "city|town",
        p.city,
        "{s} is in {v}.|{s} is located in {v}.|{s} opened in {v}.|you will find {o} in {v}.|{s} stands in {v}.|{s} is a {t} in {v}."
        "|go to {v} to find {o}.|{s} was built in {v}.|in {v} there is {o}.|{s} is a famous {t} in {v}."
        "|those who live in {v} know {o}.|{v} is home to {o}.",
        "in which city is {s}?|which town is {s} in?|what city is {s} in?|in which town is {s}?|in what town is {o} located?"
        "|in what city is {s}?|where is {s}?|in which town do I find {o}?|to which town do I go for {o}?|what town is {s} in?"
        "|which city is home to {o}?|in which city was {s} built?",
        "people travel to {v} to see {o}.||which city must I travel to for {o}?",
        "which {t} is in {v}?|what is in {v}?",
    ),
    attribute(
        "places",
        "floor|level",
        lambda r: r.choice((str(r.randint(2, 40)), f"{r.choice('ABCDE')}{r.randint(1, 9)}")),
        "{s} is on floor {v}.|{s} is on level {v}.|take the lift to floor {v} for {o}.|{s} moved to floor {v}."
        "|on floor {v} there is {o}.|go to level {v} for {o}.|you find {o} on floor {v}.|{s} has its rooms on floor {v}."
        "|get out at level {v} to reach {o}.|on level {v} you see {o}.|the stairs to {o} end on floor {v}."
        "|the sign for {o} points to floor {v}.",
        "on which floor is {s}?|what floor is {s} on?|which floor is {s} on?|on what level is {s}?|which level is {s} on?"
        "|on which level is {s}?|where do I leave the lift for {o}?|which floor do I need for {o}?|how high up is {s}?"
        "|what level is {s} on?|on what floor do I find {o}?|to which floor did {s} move?",
        "go up to floor {v} to visit {o}.||to which floor do I go for {o}?",
        "what is on floor {v}?|which {t} is on floor {v}?",
    ),
    attribute(
        "places",
        "wifi password|Wi-Fi password|wifi key|password for the wifi|wireless password|internet password|network password",
        p.password,
        "the wifi at {o} uses the password {v}.|at {o}, the wifi password is {v}.|guests of {o} can use the wifi with {v}.|to get online at {o}, use {v}.|log in to the wifi of {o} with {v}."
        "|the internet at {o} works with {v}.|guests at {o} log in with {v}.|ask for the wifi at {o} and they say {v}."
        "|{v} gets you online at {o}.|enter {v} to connect at {o}.|the network of {o} is locked with {v}."
        "|the wifi in {o} wants {v}.",
        "what is the wifi password at {o}?|how do I get online at {o}?|what password does the wifi at {o} use?|which password do I need for the wifi of {o}?|what's the wifi password in {o}?"
        "|how do I connect at {o}?|what gets me online at {o}?|what do guests at {o} log in with?"
        "|with what do I log in to the wifi of {o}?|what does the wifi in {o} want?|which password opens the wifi at {o}?"
        "|what do I enter for the wifi at {o}?",
        "type {v} to use the internet at {o}.||what do I type for the internet at {o}?",
        "",
    ),
    attribute(
        "places",
        "network name|wifi network|wifi name",
        p.password,
        "the wifi at {o} is called {v}.|at {o}, the network is called {v}."
        "|look for the wifi {v} at {o}.|connect to {v} at {o}.|{s} runs a network called {v}.|the wifi of {o} appears as {v}."
        "|at {o}, choose the network {v}.|the network in {o} goes by {v}.|guests of {o} use the network {v}."
        "|{v} is the name of the wifi at {o}.|in {o} you see the network {v}.|they named the wifi of {o} {v}.",
        "what is the wifi at {o} called?|which network does {s} have?"
        "|which network should I choose at {o}?|what is the name of the wifi at {o}?|to which network do I connect at {o}?"
        "|how does the wifi of {o} appear?|what network do guests of {o} use?|what did they name the wifi of {o}?"
        "|which wifi do I look for at {o}?|what network do I see in {o}?|under which name does the wifi of {o} run?"
        "|which wifi belongs to {o}?",
        "||what is the network of {o} called?",
        "",
    ),
    attribute(
        "prices",
        "entrance fee|admission|ticket price|entry fee|admission fee|entry price",
        p.price,
        "a ticket for {o} costs {v}.|entry to {o} costs {v}.|{s} charges {v} for entry.|visitors pay {v} at {o}.|you pay {v} to get into {o}.|admission to {o} is {v}."
        "|it costs {v} to enter {o}.|{s} takes {v} at the door.|for {v} you can enter {o}.|at the door of {o} they ask for {v}."
        "|an adult pays {v} at {o}.|one visit to {o} is {v}.",
        "how much is a ticket for {o}?|how much does entry to {o} cost?|what does {s} charge?|what does a ticket for {o} cost?|how much do visitors pay at {o}?"
        "|how much is entry to {o}?|what do I pay to enter {o}?|how much does {s} take at the door?|what is a visit to {o}?"
        "|how much does it cost to enter {o}?|what do they ask for at the door of {o}?|how expensive is {s}?",
        "bring {v} for a visit to {o}.||how much should I bring for {o}?",
        "which {t} charges {v}?",
    ),
    attribute(
        "places",
        "=owner|manager|director|founder|head|caretaker",
        None,
        "{s} is run by {v}.|{v} runs {o}.|{s} belongs to {v}.|{v} owns {o}.|{v} manages {o}.|{v} is in charge of {o}."
        "|as {n} of {o} we have {v}.|{v} has been the {n} of {o} for years.|{s} got a new {n}, {v}.|{v} became the {n} of {o}."
        "|{s} has {v} as {r} {n}.|ask {v}, the {n} of {o}.",
        "who runs {o}?|who owns {o}?|who manages {o}?|to whom does {s} belong?|who is in charge of {o}?|who is the {n} of {o}?"
        "|which person is the {n} of {o}?|who became the {n} of {o}?|whom does {s} have as {r} {n}?|who has been {n} of {o}?"
        "|whom should I ask as the {n} of {o}?|who acts as the {n} of {o}?",
        "{o} is in the hands of {v}.||under whom is {s} run?",
        "what does {v} run?|which {t} does {v} run?|what does {v} own?",
    ),
    attribute(
        "places",
        "capacity|number of seats|seats",
        lambda r: str(r.randint(12, 990)),
        "{s} has {v} seats.|{s} seats {v} people.|{s} holds {v} people.|there is room for {v} people in {o}.|up to {v} guests fit into {o}."
        "|{s} can take {v} people.|{v} people can sit in {o}.|{s} is made for {v} guests.|there are {v} seats in {o}."
        "|at most {v} people may enter {o}.|no more than {v} people fit into {o}.|we counted {v} seats in {o}.",
        "how many seats does {s} have?|how many people does {s} hold?|how many people fit into {o}?|how many guests fit into {o}?|how big is {o}?"
        "|how many people can {s} take?|how many may enter {o}?|how many seats are there in {o}?|for how many guests is {s} made?"
        "|how many people can sit in {o}?|what number of people fits into {o}?|how many seats did we count in {o}?",
        "{s} fills up with {v} people.||for how many people is there room in {o}?",
        "which {t} has {v} seats?",
    ),
    attribute(
        "places",
        "founding year|year of opening|opening year",
        lambda r: str(r.randint(1700, 2025)),
        "{s} was founded in {v}.|{s} opened in {v}.|{s} was built in {v}.|{s} dates from {v}.|in {v}, {s} was founded.|{s} has existed since {v}."
        "|the history of {o} began in {v}.|{s} first opened in {v}.|they built {o} in {v}.|{s} has been there since {v}."
        "|{s}, founded in {v}, is well known.|{v} was the year when {s} opened.",
        "when was {s} founded?|in which year was {s} founded?|what year was {s} built?|since when has {s} existed?|in what year did {s} open?"
        "|how old is {s}?|when was {s} built?|from what year is {s}?|when did the history of {o} begin?"
        "|in which year did {s} open?|when did {s} first open?|what year does {s} date from?",
        "the first guests came to {o} in {v}.||which year was {s} founded in?",
        "which {t} was founded in {v}?|what was built in {v}?",
    ),
    attribute(
        "places",
        "phone number|telephone number|number|phone",
        p.phone,
        "call {o} on {v}.|{s} can be reached at {v}.|to book at {o}, dial {v}.|you can call {o} at {v}."
        "|the phone at {o} is {v}.|to reach {o}, dial {v}.|questions to {o} go to {v}.|for a table at {o}, call {v}."
        "|reach {o} under {v}.|the people at {o} answer {v}.|{s} takes calls on {v}.|if {s} is closed, try {v}.",
        "how do I call {o}?|what number do I dial for {o}?|how can I reach {o}?|at which number can I call {o}?"
        "|how do I get {o} on the phone?|which number do I dial for {o}?|what number takes me to {o}?"
        "|on what number does {s} take calls?|what number do I call for {o}?|which number belongs to {o}?"
        "|under what number can I reach {o}?|how can I phone {o}?",
        "ring {o} on {v}.||which number rings at {o}?",
        "",
    ),
    attribute(
        "places",
        "speciality|best dish|dish of the day",
        p.open_choice(p.FOODS, p.FOOD_ENDS),
        "{s} is known for {v}.|{s} serves {v}.|at {o}, try the {v}.|guests love the {v} at {o}."
        "|the best thing at {o} is {v}.|people go to {o} for {v}.|{s} makes very good {v}.|everyone who goes to {o} eats {v}."
        "|{v} made {o} famous.|today {s} offers {v}.|the cook of {o} recommends {v}.|at {o} we had {v}.",
        "what is {o} known for?|what does {s} serve?|what should I try at {o}?|what do guests love at {o}?"
        "|what is best at {o}?|what do people go to {o} for?|what made {o} famous?|what does {s} offer today?"
        "|what does the cook of {o} recommend?|what did we eat at {o}?|for what is {s} known?|which food does {s} serve?",
        "order the {v} at {o}.||what should I order at {o}?",
        "which {t} serves {v}?|which {t} is known for {v}?",
    ),
)

DEVICES = (
    attribute(
        "codes",
        "=access code|door code|entry code|alarm code|code|security code|keypad code|unlock code|PIN",
        p.code,
        _SAYS_CODE,
        _ASKS_CODE,
        "key in {v} and {o} unlocks.||what must I key in at {o}?",
        "what does {v} open?|what opens with {v}?|which {t} opens with {v}?",
    ),
    attribute(
        "codes",
        "=serial number|inventory number|asset tag|part number|model number|device ID|batch number|licence key|registration number|"
        "IP address|firmware version|contract number|key number|reference number",
        p.code,
        "{s} carries the {n} {v}.|{s} is registered under the {n} {v}.|{v} is printed on {o} as the {n}.|the label on {o} shows the {n} {v}."
        "|{v} is the {n} of {o}.|you see the {n} {v} on {o}.|{s} was given the {n} {v}.|we know {o} by the {n} {v}."
        "|{s} is stored with the {n} {v}.|the sticker on {o} has the {n} {v}.|{s} runs with the {n} {v}."
        "|the back of {o} shows the {n} {v}.",
        "which {n} does {s} carry?|under which {n} is {o} registered?|what {n} is on {o}?|what {n} does the label on {o} show?"
        "|what {n} was given to {o}?|by which {n} do we know {o}?|which {n} is on {o}?|with what {n} is {s} stored?"
        "|which {n} does the sticker on {o} have?|what {n} does {s} carry?|which {n} is on the back of {o}?"
        "|what {n} do you see on {o}?",
        "you can read the {n} {v} on {o}.||what {n} can I read on {o}?",
        "what has the {n} {v}?|what carries the {n} {v}?",
    ),
    attribute(
        "places",
        "location|place|position",
        p.room,
        "{s} is in {v}.|{s} is kept in {v}.|{s} was moved to {v}.|you will find {o} in {v}.|{s} stands in {v}."
        "|we keep {o} in {v}.|{s} can be found in {v}.|{s} now belongs in {v}.|if you need {o}, try {v}."
        "|{s} has its place in {v}.",
        "where is {s}?|where is {o} kept?|where do I find {o}?|where can I find {o}?|in which room is {s}?|where was {o} moved?"
        "|where do we keep {o}?|where does {s} stand?|where should I look for {o}?|in which room do I find {o}?"
        "|where does {s} belong?|what room is {s} in?",
        "{v} is where we keep {o}.||in what room do we keep {o}?",
        "what is in {v}?|what is kept in {v}?",
    ),
    attribute(
        "times",
        "=last inspection|last service|inspection date|service date|next inspection",
        p.date,
        "{s} was inspected on {v}.|{s} was last checked on {v}.|on {v}, {s} was serviced.|{s} was repaired on {v}."
        "|the date for {o} is {v}.|somebody checked {o} on {v}.|{s} was looked at on {v}.|{v} was the day {s} was serviced.|we serviced {o} on {v}.|on {v} a man came to check {o}.|{s} passed the check on {v}.|{s} was cleaned and checked on {v}.",
        "when was {s} inspected?|when was {s} last checked?|when was {s} serviced?|on what date was {s} checked?|when was {s} repaired?"
        "|on what day was {s} serviced?|when did we service {o}?|when did somebody check {o}?|what is the date of the check of {o}?|on which date was {s} looked at?|when did {s} pass the check?|on what date was {s} inspected?",
        "the last check of {o} took place on {v}.||which day was {s} inspected?",
        "what was inspected on {v}?",
    ),
    attribute(
        "people",
        "=keyholder|contact person|contact|technician|responsible person|operator",
        None,
        "{v} looks after {o}.|{v} is responsible for {o}.|{v} has the key to {o}.|ask {v} about {o}.|{v} takes care of {o}."
        "|for {o}, talk to {v}.|{s} is looked after by {v}.|if {s} breaks, call {v}.|{v} repairs {o}.|only {v} may touch {o}.|questions about {o} go to {v}.|{v} keeps an eye on {o}.",
        "who looks after {o}?|who is responsible for {o}?|who has the key to {o}?|whom can I ask about {o}?|who takes care of {o}?"
        "|whom do I call if {s} breaks?|by whom is {s} looked after?|who keeps an eye on {o}?|who repairs {o}?|who may touch {o}?|to whom do questions about {o} go?|with whom should I talk about {o}?",
        "{o} is in the care of {v}.||in whose care is {o}?",
        "what does {v} look after?|what is {v} responsible for?",
    ),
    attribute(
        "places",
        "colour|color",
        p.open_choice(p.COLOURS, ("",)),
        "{s} is painted {v}.|{s} is {v}.|the paint on {o} is {v}.|we painted {o} {v}."
        "|{s} shines in {v}.|{s} has a {v} door.|look for something {v}, that is {o}.|{s} looks {v}.|they made {o} {v}.|{s} stands out in {v}.|{s} comes in {v}.|you know {o} by the colour {v}.",
        "what colour is {s}?|which colour is {s}?|what color is {o} painted?|in what colour is {o} painted?"
        "|what colour does {s} have?|in which color does {s} come?|what colour did we paint {o}?|by what colour do I know {o}?|which color does {s} have?|what does {s} look like in colour?|what colour is the paint on {o}?|which color is {o} painted?",
        "{v} paint was used for {o}.||what paint was used for {o}?",
        "what is painted {v}?|what is {v}?",
    ),
    attribute(
        "places",
        "temperature|target temperature",
        lambda r: r.choice((f"{r.randint(-30, 95)} degrees", f"{r.randint(2, 95)}°C")),
        "{s} is set to {v}.|{s} is kept at {v}.|it is {v} in {o}.|keep {o} at {v}."
        "|{s} runs at {v}.|the dial on {o} is at {v}.|we measured {v} in {o}.|{s} has reached {v}.|turn {o} to {v}.|inside {o} we have {v}.|{s} must never go above {v}.|{s} stays at {v}.",
        "how warm is {s}?|at what temperature is {o} kept?|to what temperature is {o} set?|how hot is {o}?"
        "|how many degrees are there in {o}?|at what temperature does {s} run?|what did we measure in {o}?|to what should I turn {o}?|how cold is {s}?|at what temperature do we keep {o}?|what temperature has {s} reached?|how warm is it in {o}?",
        "the thermometer of {o} shows {v}.||what does the thermometer of {o} show?",
        "",
    ),
)

EVENTS = (
    attribute(
        "appointments",
        "time|start time|starting time",
        p.clock,
        "{s} starts at {v}.|{s} begins at {v}.|{s} is at {v}.|come to {o} at {v}.|at {v}, {s} begins.|{s} was moved to {v}.|be there for {o} at {v}."
        "|we begin {o} at {v}.|{s} kicks off at {v}.|please join {o} at {v}.|everybody meets for {o} at {v}.|{s} opens at {v}."
        "|the clock says {v} when {s} begins.",
        "when does {s} start?|what time does {s} begin?|at what time is {s}?|what time is {s}?|when does {s} begin?|what time should I be at {o}?|what time does {s} start?"
        "|when is {s}?|when do we begin {o}?|at what time does {s} begin?|for what time is {s} planned?|when does {s} kick off?"
        "|when should I come to {o}?",
        "doors open for {o} at {v}.||at what hour does {s} start?",
        "what starts at {v}?|what begins at {v}?",
    ),
    attribute(
        "appointments",
        "date|day",
        lambda r: p.date(r) if r.random() < 0.7 else r.choice(p.WEEKDAYS),
        "{s} takes place on {v}.|{s} is on {v}.|{s} will be held on {v}.|{s} is planned for {v}.|on {v}, there is {o}.|we meet for {o} on {v}."
        "|come to {o} on {v}.|{s} was moved to {v}.|everybody is free on {v}, so that is when we have {o}."
        "|{s} has been set for {v}.|we have {o} on {v}.|mark {v} for {o}.",
        "on which day is {s}?|what day is {s}?|on what date is {s}?|which day does {s} take place?|on which date is {s} planned?|when is {s} held?"
        "|when does {s} take place?|on what day is {s}?|which day is {s}?|to which day was {s} moved?|on which date is {s}?"
        "|when do we have {o}?|for what date is {s} set?",
        "keep {v} free for {o}.||which day should I keep free for {o}?",
        "what takes place on {v}?|what is on {v}?",
    ),
    attribute(
        "appointments",
        "place|location|room|venue",
        lambda r: r.choice((p.room, p.address, p.city))(r),
        "{s} is held in {v}.|{s} takes place in {v}.|{s} will be in {v}.|we meet in {v} for {o}.|come to {v} for {o}.|{s} was moved to {v}."
        "|{s} happens in {v}.|{v} is where {s} takes place.|for {o} we booked {v}.|you will find {o} in {v}."
        "|guests of {o} come to {v}.",
        "where is {s}?|where does {s} take place?|where is {o} held?|in which place is {s}?|where will {s} be?|where do we meet for {o}?"
        "|where does {s} happen?|where is {s} held?|what did we book for {o}?|to where was {s} moved?"
        "|at what place is {s} held?|where should I be for {o}?",
        "people gather in {v} for {o}.||where do people gather for {o}?",
        "what takes place in {v}?|what is held in {v}?",
    ),
    attribute(
        "appointments",
        "=host|leader|organiser|speaker|chair|contact|teacher|trainer",
        None,
        "{v} leads {o}.|{v} hosts {o}.|{s} is led by {v}.|{s} is organised by {v}.|{v} is in charge of {o}.|{s} is given by {v}.|{v} organises {o}."
        "|{v} will be the {n} of {o}.|{v} runs {o}.|the one in charge of {o} is {v}.|{s} has {v} as {n}.|{v} prepared {o}.",
        "who leads {o}?|who hosts {o}?|who organises {o}?|who is in charge of {o}?|by whom is {s} led?|who gives {o}?|who runs {o}?"
        "|who prepared {o}?|whom does {s} have as {n}?|who is the {n} of {o}?|who will lead {o}?|by whom is {s} organised?",
        "{o} is in the hands of {v}.||in whose hands is {o}?",
        "what does {v} lead?|what does {v} host?|what does {v} organise?",
    ),
    attribute(
        "appointments",
        "length|duration",
        p.duration,
        "{s} lasts {v}.|{s} takes {v}.|{s} goes on for {v}.|plan {v} for {o}.|{s} is {v} long."
        "|{s} needs {v}.|{s} was cut to {v}.|you will spend {v} at {o}.|we sat in {o} for {v}.|{s} is over in {v}."
        "|it takes {v} to finish {o}.|{v} are planned for {o}.",
        "how long does {s} last?|how long is {s}?|how long does {s} take?|how much time does {s} take?|how long does {s} go on?"
        "|for how long does {s} go on?|how much time do I need for {o}?|for how long do we sit in {o}?"
        "|how many minutes or hours is {s}?|how long will {s} be?|what time does {s} need in total?"
        "|how much time is planned for {o}?",
        "after {v}, {s} is over.||after how long is {s} over?",
        "what lasts {v}?|what takes {v}?",
    ),
    attribute(
        "prices",
        "price|fee|cost|ticket price",
        p.price,
        "{s} costs {v}.|a ticket for {o} costs {v}.|you pay {v} for {o}.|the fee for {o} is {v}."
        "|{s} is {v} per person.|it costs {v} to join {o}.|everybody pays {v} for {o}.|{s} can be had for {v}."
        "|they charge {v} for {o}.|to take part in {o}, you pay {v}.|for {v} you may come to {o}.|tickets to {o} are sold at {v}.",
        "how much does {s} cost?|how much is {s}?|what does {s} cost?|what do I pay for {o}?|how much is a ticket for {o}?"
        "|what does it cost to join {o}?|how much do they charge for {o}?|what does everybody pay for {o}?"
        "|what is the fee for {o}?|what does a ticket for {o} cost?|how much per person is {s}?|how expensive is {s}?",
        "bring {v} to {o}.||how much money do I bring to {o}?",
        "what costs {v}?",
    ),
    attribute(
        "appointments",
        "topic|subject|theme",
        lambda r: r.choice(
            (
                p.open_choice(p.HOBBIES, p.HOBBY_ENDS),
                p.open_choice(p.FOODS, p.FOOD_ENDS),
                p.open_choice(p.THINGS, p.THING_ENDS),
                p.city,
                p.company,
            )
        )(r),
        "{s} is about {v}.|{s} deals with {v}.|at {o}, we talk about {v}.|the talk at {o} is on {v}."
        "|{s} is on {v}.|in {o} we learn about {v}.|{s} covers {v}.|the question at {o} will be {v}."
        "|everyone at {o} talks about {v}.|come to {o} if you like {v}.|{s} is all about {v}.|we chose {v} for {o}.",
        "what is {s} about?|what does {s} deal with?|what do we talk about at {o}?|which topic does {s} have?"
        "|what does {s} cover?|what do we learn about in {o}?|on what is {s}?|what did we choose for {o}?|about what is {s}?"
        "|what does everyone at {o} talk about?|what is the talk at {o} on?|what kind of topic does {s} have?",
        "{v} will be discussed at {o}.||what will be discussed at {o}?",
        "what is about {v}?",
    ),
    attribute(
        "codes",
        "booking code|meeting ID|dial-in code|reference|passcode|booking number",
        p.code,
        "use {v} to join {o}.|join {o} with {v}.|{s} is booked under {v}."
        "|{v} lets you join {o}.|you need {v} for {o}.|dial in to {o} with {v}.|show {v} at {o}.|for {o}, enter {v}."
        "|we booked {o} under {v}.|{s} asks for {v}.|your code to {o} is {v}.|keep {v} ready for {o}.",
        "how do I join {o}?|which code do I need to join {o}?|under which code is {s} booked?"
        "|what do I enter for {o}?|what do I need for {o}?|what lets me join {o}?|which code opens {o}?|what must I show at {o}?"
        "|what does {s} ask for?|with what do I dial in to {o}?|what should I keep ready for {o}?|under what did we book {o}?",
        "type {v} to get into {o}.||what do I type to get into {o}?",
        "",
    ),
)

GOODS = (
    attribute(
        "prices",
        "price|cost|retail price|unit price",
        p.price,
        "{s} costs {v}.|{s} sells for {v}.|{s} is sold at {v}.|you can buy {o} for {v}.|{s} is priced at {v}.|we sell {o} for {v}.|{s} can be had for {v}."
        "|it costs {v} to buy {o}.|they ask {v} for {o}.|one pays {v} for {o}.|{s} goes for {v}.|for {v}, {s} is yours.",
        "how much does {s} cost?|how much is {s}?|what does {s} cost?|what do I pay for {o}?|for how much is {s} sold?|how much do we charge for {o}?|what does {s} sell for?"
        "|what is {s} priced at?|how much do they ask for {o}?|how expensive is {s}?|for how much can I buy {o}?"
        "|how much does {s} go for?",
        "{v} is what people pay for {o}.||what must I pay to get {o}?",
        "what costs {v}?|what sells for {v}?|which {t} costs {v}?",
    ),
    attribute(
        "prices",
        "=discount|sale price|delivery fee|deposit|shipping cost|wholesale price",
        p.price,
        "",
        "how much is the {n} for {o}?|how high is the {n} of {o}?"
        "|what is the amount of the {n} for {o}?|what does the {n} of {o} come to?|what {n} is there for {o}?"
        "|how much {n} is there on {o}?|what {n} do I get for {o}?|how large is the {n} for {o}?|what amount is the {n} of {o}?"
        "|which {n} applies to {o}?|how much did we agree on as the {n} for {o}?|how many euros or dollars is the {n} for {o}?",
        "||what sum is the {n} for {o}?",
        "",
    ),
    attribute(
        "codes",
        "=article number|product code|SKU|item number|order number|barcode|tracking number|invoice number|lot number",
        p.code,
        "{s} is listed under {v}.|order {o} with the {n} {v}.|{s} carries the {n} {v}."
        "|{s} has {v} as {n}.|the box of {o} shows the {n} {v}.|search for {o} with the {n} {v}.|type the {n} {v} to find {o}."
        "|the {n} {v} stands for {o}.|{s} was entered with the {n} {v}.|{v} is printed on {o}.|on the label of {o} you see {v}."
        "|we file {o} under the {n} {v}.",
        "which {n} does {s} carry?|what {n} do I need for {o}?|with which {n} do I order {o}?"
        "|which {n} is on the label of {o}?|what {n} does {s} carry?|with what {n} do I find {o}?|which {n} stands for {o}?"
        "|what {n} is printed on {o}?|what {n} was entered for {o}?|which {n} do I type for {o}?|under which {n} is {o} filed?"
        "|what {n} does the box of {o} show?",
        "you find {o} under {v}.||under what {n} do I find {o}?",
        "what has the {n} {v}?|what carries the {n} {v}?",
    ),
    attribute(
        "prices",
        "stock|number in stock|quantity",
        lambda r: str(r.randint(2, 2000)),
        "there are {v} of {o} in stock.|we have {v} of {o} left.|{v} of {o} are left."
        "|there are still {v} of {o}.|we counted {v} of {o}.|the shelf holds {v} of {o}.|{v} of {o} arrived."
        "|we ordered {v} of {o}.|you can still get {v} of {o}.|the stock of {o} is down to {v}.|in the store there are {v} of {o}."
        "|we keep {v} of {o}.",
        "how many of {o} are in stock?|how many of {o} are left?|how many of {o} do we have?"
        "|how many of {o} are there?|how many of {o} did we count?|how many of {o} can I still get?"
        "|how many of {o} are in the store?|what number of {o} is in stock?|how many of {o} arrived?"
        "|how large is the stock of {o}?|how many of {o} does the shelf hold?|how many of {o} do we keep?",
        "||how many of {o} remain?",
        "",
    ),
    attribute(
        "places",
        "weight",
        lambda r: r.choice(
            (
                f"{r.randint(1, 99)} kg",
                f"{r.randint(1, 9)}.{r.randint(1, 9)} kg",
                f"{r.randint(20, 990)} grams",
                f"{r.randint(20, 990)} g",
            )
        ),
        "{s} weighs {v}.|with {v}, {s} is quite heavy."
        "|the scale shows {v} for {o}.|{s} is {v} heavy.|{s} adds {v} to your bag.|you have to carry {v} with {o}."
        "|{s} brings {v} to the scale.|we weighed {o} and got {v}.|together with the box, {s} weighs {v}.|{s} has a weight of {v}."
        "|at {v}, {s} is easy to lift.|the parcel with {o} is {v}.",
        "how much does {s} weigh?|how heavy is {s}?|what does {s} weigh?"
        "|what does the scale show for {o}?|how much do I carry with {o}?|what is the weight of {o}?|how heavy is it, {o}?"
        "|how many kilos or grams is {s}?|how much does {s} add to my bag?|what weight does {s} have?"
        "|what did we get when we weighed {o}?|how much does {s} bring to the scale?",
        "||how heavy would {s} be?",
        "what weighs {v}?",
    ),
    attribute(
        "places",
        "colour|color",
        p.open_choice(p.COLOURS, ("",)),
        "{s} is {v}.|{s} comes in {v}.|{s} is painted {v}.|{s} is only sold in {v}."
        "|we only have {o} in {v}.|{s} looks {v}.|you can get {o} in {v}.|{s} was dyed {v}.|they make {o} in {v}."
        "|the outside of {o} is {v}.|{s} shines in {v}.|we ordered {o} in {v}.",
        "what colour is {s}?|which colour is {s}?|what color does {s} come in?|in which colour is {s} sold?"
        "|what colour does {s} have?|in what color does {s} come?|what color is {s}?|in which colour did we order {o}?"
        "|which colour does {s} come in?|what colour is the outside of {o}?|in which colour do they make {o}?"
        "|which color was {s} dyed?",
        "||in what colour do we get {o}?",
        "what is {v}?|what comes in {v}?",
    ),
    attribute(
        "places",
        "material",
        p.open_choice(p.MATERIALS, ("",)),
        "{s} is made of {v}.|{s} is made from {v}.|they make {o} from {v}."
        "|{v} is what {s} is made of.|{s} consists of {v}.|the label says that {s} is {v}.|{s} is built from {v}."
        "|you need {v} to make {o}.|{s} is of pure {v}.|they cut {o} out of {v}.|{s} feels like {v}, because it is {v}."
        "|{v} was chosen for {o}.",
        "what is {s} made of?|which material is {s} made of?|from what is {s} made?|what material is used for {o}?"
        "|of what is {s} made?|what does {s} consist of?|from which material is {s}?|what was chosen for {o}?"
        "|what is {s} built from?|out of what is {s} made?|what kind of material is {s}?|what do I need to make {o}?",
        "they use {v} for {o}.||what do they use for {o}?",
        "what is made of {v}?|what is made from {v}?",
    ),
    attribute(
        "places",
        "shelf|storage place|location",
        lambda r: r.choice(
            (
                f"shelf {r.randint(1, 99)}",
                f"aisle {r.randint(1, 60)}",
                f"shelf {r.choice('ABCDEFGH')}{r.randint(1, 60)}",
                f"bin {r.randint(1, 400)}",
            )
        ),
        "{s} is on {v}.|{s} is stored on {v}.|you find {o} at {v}.|look for {o} at {v}."
        "|we keep {o} on {v}.|{s} stands on {v}.|{s} has been put on {v}.|on {v} there is {o}.|{s} now lies on {v}."
        "|{s} can be found at {v}.|take {o} from {v}.|put {o} back on {v}.",
        "where is {s}?|where is {o} stored?|where do I find {o}?|where can I find {o}?"
        "|where do we keep {o}?|on what shelf or aisle is {s}?|where does {s} lie?|where has {s} been put?"
        "|from where do I take {o}?|where do I put {o} back?|where should I look for {o}?|in which spot is {s}?",
        "go to {v} for {o}.||where do I go for {o}?",
        "what is stored on {v}?",
    ),
    attribute(
        "people",
        "supplier|manufacturer|maker|brand",
        p.company,
        "{s} is made by {v}.|{v} makes {o}.|{v} supplies {o}.|we get {o} from {v}.|{s} comes from {v}.|{v} produces {o}."
        "|{s} is supplied by {v}.|{s} is produced by {v}.|we order {o} from {v}.|{v} sells {o} to us.|{v} invented {o}."
        "|the name {v} is on {o}.",
        "who makes {o}?|who supplies {o}?|where do we get {o}?|which company makes {o}?|who produces {o}?|by whom is {s} made?"
        "|by whom is {s} produced?|from whom do we order {o}?|which company supplies {o}?|from which company does {s} come?"
        "|whose name is on {o}?|which firm makes {o}?",
        "{v} delivers {o} to us.||which firm delivers {o}?",
        "what does {v} make?|what does {v} supply?",
    ),
    attribute(
        "times",
        "delivery date|delivery day|arrival date|release date",
        p.date,
        "{s} arrives on {v}.|{s} will be delivered on {v}.|expect {o} on {v}.|{s} is due on {v}."
        "|{s} will be here on {v}.|we get {o} on {v}.|the truck brings {o} on {v}.|you will have {o} on {v}.|{s} comes on {v}."
        "|they promised {o} for {v}.|{s} can be picked up on {v}.|we wait for {o} until {v}.",
        "when does {s} arrive?|when will {s} be delivered?|when is {s} due?|on which date will {s} arrive?|when can I expect {o}?"
        "|when will {s} be here?|when do we get {o}?|on what day does {s} come?|for when did they promise {o}?"
        "|when can I pick up {o}?|on which day is {s} due?|when does the truck bring {o}?",
        "{s} should be here by {v}.||by when should {s} be here?",
        "what arrives on {v}?|what is due on {v}?",
    ),
    attribute(
        "appointments",
        "status|state",
        p.open_choice(p.STATUSES, ("ed", "ed", "", "ing")),
        "{s} is {v}.|{s} is currently {v}.|{s} has been marked as {v}.|right now {s} is {v}."
        "|the list shows that {s} is {v}.|{s} has been {v} since Monday.|{s} is now {v}.|we heard that {s} is {v}."
        "|according to the mail, {s} is {v}.|at last, {s} is {v}.|{s} went from new to {v}.|the entry for {o} reads {v}.",
        "what is the status of {o}?|what happened to {o}?|is {s} on its way?|how is {o} marked?"
        "|how is {s} doing?|what does the entry for {o} say?|in what state is {s}?|what is going on with {o}?"
        "|which status does {s} have?|where do we stand with {o}?|what became of {o}?|as what is {s} marked?",
        "the system shows {o} as {v}.||as what does the system show {o}?",
        "",
    ),
    attribute(
        "people",
        "customer|buyer|recipient|client",
        None,
        "{v} ordered {o}.|{v} bought {o}.|{s} was ordered by {v}.|{s} goes to {v}.|{s} was sold to {v}.|{s} is reserved for {v}."
        "|{v} is waiting for {o}.|send {o} to {v}.|{s} is meant for {v}.|{v} will get {o}.|we sold {o} to {v}.|{v} asked for {o}.",
        "who ordered {o}?|who bought {o}?|to whom does {s} go?|for whom is {s} reserved?|by whom was {s} ordered?"
        "|who is waiting for {o}?|who will get {o}?|to whom was {s} sold?|to whom do we send {o}?|for whom is {s} meant?"
        "|who asked for {o}?|who is {s} for?",
        "{v} paid for {o}.||who paid for {o}?",
        "what did {v} order?|what did {v} buy?|which {t} goes to {v}?",
    ),
    attribute(
        "times",
        "warranty|guarantee",
        lambda r: r.choice((f"{r.randint(2, 15)} years", f"{r.randint(3, 60)} months", f"{r.randint(10, 95)} days")),
        "{s} has a warranty of {v}.|the warranty for {o} lasts {v}.|{s} is guaranteed for {v}."
        "|you can return {o} within {v}.|{s} is under warranty for {v}.|we repair {o} for free within {v}."
        "|the maker stands behind {o} for {v}.|{s} is covered for {v}.|they promise that {s} lasts {v}."
        "|they gave {o} a warranty of {v}.|for {o} the warranty runs {v}.|after {v}, the warranty of {o} ends.",
        "how long is the warranty of {o}?|how long is {s} guaranteed?|for how long is {s} under warranty?"
        "|for how long is {s} covered?|how long can I return {o}?|how long is {s} under warranty?"
        "|how long does the warranty of {o} run?|for how long do we repair {o} for free?"
        "|after what time does the warranty of {o} end?|what warranty does {s} have?|how long does the warranty for {o} last?"
        "|what warranty did they give {o}?",
        "for {v}, {s} is under guarantee.||how long does the guarantee of {o} last?",
        "",
    ),
)
