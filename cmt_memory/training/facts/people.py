# ruff: noqa: E501 -- word lists and phrasings are data
"""Attributes of people. ``make=None`` means that the value is another person's name."""

from __future__ import annotations

from cmt_memory.training.facts import pools as p
from cmt_memory.training.facts.phrasings import attribute

PEOPLE = (
    attribute(
        "people",
        "job|occupation|profession|trade",
        p.open_choice(p.JOBS, p.JOB_ENDS),
        "{s} works as {a} {v}.|{s} is {a} {v}.|{s} is {a} {v} by trade.|{s} earns a living as {a} {v}.|by profession, {s} is {a} {v}."
        "|{s} has been working as {a} {v} for years.|{s} became {a} {v}.|{s} is employed as {a} {v}."
        "|{s} trained as {a} {v}.|{s} found work as {a} {v}.|{s}, who is {a} {v}, was asked to help.|if you need {a} {v}, ask {o}."
        "|after school, {s} became {a} {v}.|the {v} in our team is {o}.",
        "what does {s} do for a living?|what does {s} work as?|what is {p} job?|what kind of work does {s} do?|what does {s} do?"
        "|as what does {s} work?|what is {o} by profession?"
        "|which profession does {s} have?|in what line of work is {s}?|what is it that {s} does for work?|what did {s} train as?"
        "|what kind of job did {s} find?|how does {s} earn money?",
        "{s} makes a living as {a} {v}.|everyone knows {o} as {a} {v}.||how does {s} make a living?|what sort of job does {s} have?",
        "who works as {a} {v}?|who is {a} {v}?|who is the {v}?|which person is {a} {v}?",
    ),
    attribute(
        "people",
        "hometown|birthplace|home town|place of birth",
        p.city,
        "{s} was born in {v}.|{s} comes from {v}.|{s} grew up in {v}.|{s} is from {v}.|{s} is originally from {v}.|born in {v}, {s} left early."
        "|{s} spent {r} childhood in {v}."
        "|{p} family is from {v}.|{s}, born in {v}, tells many stories.|{s} was raised in {v}."
        "|{s} went to school in {v}, the town of {r} birth.|it was in {v} that {s} was born.",
        "where was {s} born?|where does {s} come from?|where is {o} from?|where did {s} grow up?|which town does {s} come from?"
        "|in which city was {s} born?|where is {o} originally from?"
        "|in which town did {s} grow up?|where was {s} raised?|what is the town that {s} comes from?|in what town was {s} born?"
        "|where is {p} family from?|where did {s} spend {r} childhood?",
        "{v} is where {s} was born.|{s} hails from {v}, like the whole family.||from which place does {s} come?|what town was {o} born in?",
        "who was born in {v}?|who comes from {v}?|who is from {v}?|who grew up in {v}?",
    ),
    attribute(
        "people",
        "home|current city|place of residence|city",
        p.city,
        "{s} lives in {v}.|{s} moved to {v}.|{s} now lives in {v}.|{s} has a flat in {v}.|{s} resides in {v}.|{s} has lived in {v} for years."
        "|these days {s} lives in {v}.|{s} settled in {v}."
        "|{p} flat is in {v}.|to visit {o}, go to {v}.|{s} has made a home in {v}.|{s} rents a house in {v}."
        "|you can visit {o} in {v}, where {s} lives.",
        "where does {s} live?|which city does {s} live in?|in which town does {s} live?|where does {s} live now?|where is {p} home?"
        "|what city does {s} live in?|where did {s} move?"
        "|in which city does {s} live now?|where is {p} flat?|where do I go to visit {o}?|where has {s} settled?"
        "|in what town does {s} live?|where does {s} have a flat?",
        "{v} is the place where {s} lives.|{s} made {v} {r} home.||what town does {s} live in these days?|in what place does {s} now live?",
        "who lives in {v}?|who moved to {v}?|which person lives in {v}?",
    ),
    attribute(
        "people",
        "birthday|date of birth|birth date",
        p.date,
        "{s} was born on {v}.|{s} celebrates {r} birthday on {v}.|{p} birthday is on {v}.|{p} birthday falls on {v}.|{s} has {r} birthday on {v}."
        "|born on {v}, {s} likes a big party."
        "|{v} is the day {s} was born.|we sing for {o} on {v}.|every year on {v}, {s} has a birthday."
        "|{s} turns a year older on {v}.|there will be cake on {v}, because it is {p} birthday."
        "|{s} first saw the light of day on {v}.",
        "when was {s} born?|when is {p} birthday?|on what date was {s} born?|when does {s} celebrate {r} birthday?|on which day is {p} birthday?"
        "|when does {s} have {r} birthday?"
        "|what is the date of {p} birthday?|when do we sing for {o}?|when does {s} turn a year older?|what date is {p} birthday?"
        "|when will we celebrate {p} birthday?|when exactly was {s} born?",
        "{s} came into the world on {v}.|{v} is when {s} has {r} birthday.||what day is {p} birthday?|on which date does {s} celebrate?",
        "who was born on {v}?|whose birthday is on {v}?|whose birthday is {v}?",
    ),
    attribute(
        "people",
        "phone number|telephone number|number|phone|contact number|mobile number|extension",
        p.phone,
        "{s} can be reached at {v}.|call {o} on {v}.|{s} answers the phone at {v}.|to reach {o}, dial {v}.|you can call {o} at {v}."
        "|phone {o} under {v}.|{s} can be called on {v}."
        "|if you want to talk to {o}, call {v}.|{p} phone rings at {v}.|{s} picks up at {v}.|send a text to {o} at {v}."
        "|{v} gets you through to {o}.",
        "how can I reach {o} by phone?|what number do I call to reach {o}?|at which number can I call {o}?|what is the number of {o}?"
        "|which number should I dial for {o}?|how do I call {o}?"
        "|how do I get {o} on the phone?|what number does {s} have?|where do I call to speak to {o}?"
        "|which number gets me through to {o}?|at what number does {s} pick up?|which number should I call for {o}?",
        "ring {o} on {v}.|for calls to {o} use {v}.||what number reaches {o}?|under what number does {s} answer?",
        "who can be reached at {v}?|whose number is {v}?|who answers at {v}?",
    ),
    attribute(
        "people",
        "manager|boss|supervisor|team leader",
        None,
        "{s} reports to {v}.|{v} manages {o}.|{v} is in charge of {o}.|{s} works for {v}.|{v} supervises {o}.|{v} is {p} boss."
        "|{s} is supervised by {v}.|{s} is managed by {v}.|{s} works under {v}.|{v} leads the team of {o}.|{s} has {v} as a boss."
        "|{v} tells {o} what to do.",
        "who is {p} manager?|who does {s} report to?|who manages {o}?|who is {p} boss?|who supervises {o}?|whom does {s} work for?"
        "|who is in charge of {o}?"
        "|by whom is {s} supervised?|under whom does {s} work?|who leads the team of {o}?|who does {s} work for?"
        "|who tells {o} what to do?|to which boss does {s} answer?",
        "{p} work is overseen by {v}.|{s} takes orders from {v}.||to whom does {s} report?|name {p} boss.",
        "who reports to {v}?|whose manager is {v}?|whose boss is {v}?|who works for {v}?",
    ),
    attribute(
        "people",
        "=best friend|partner|spouse|neighbour|doctor|mentor|tutor|landlord|dentist|assistant",
        None,
        "",
        "who is {p} {n}?|who is the {n} of {o}?|what is the name of {p} {n}?|what is {p} {n} called?|who is {o}'s {n}?"
        "|who would be {p} {n}?|can you name {p} {n}?|which person is {p} {n}?|who acts as {n} for {o}?"
        "|whom does {s} have as {r} {n}?|what is the full name of {p} {n}?|who was it again, {p} {n}?",
        "||what name does {p} {n} have?",
        "",
    ),
    attribute(
        "people",
        "=dog|cat|parrot|rabbit|hamster|horse|turtle|pony|daughter|son|boat|brother|sister",
        p.made_name,
        "{s} has a {n} called {v}.|{s} has a {n} named {v}.|{p} {n} is called {v}.|{p} {n} is named {v}.|{s} lives with a {n} called {v}."
        "|{p} {n}, {v}, is well known.|the name of {p} {n} is {v}."
        "|{v} is {p} {n}.|{s} named {r} {n} {v}.|{s} often talks about {v}, the {n}.|{s} came with {v}, {r} {n}."
        "|{s} is proud of {v}, the {n}.",
        "what is {p} {n} called?|what is the name of {p} {n}?|what is {p} {n} named?|how is {p} {n} called?|what name did {s} give the {n}?"
        "|what is {p} {n}'s name?"
        "|what did {s} name the {n}?|what does {s} call the {n}?|by what name is {p} {n} known?|what is the {n} of {o} called?"
        "|how did {s} name the {n}?|what was {p} {n} named?",
        "{v} is the name {s} chose for the {n}.||what did {s} call {r} {n}?|which name does {p} {n} have?",
        "who has a {n} called {v}?|whose {n} is called {v}?|who has a {n} named {v}?",
    ),
    attribute(
        "people",
        "pet|animal",
        p.open_choice(p.ANIMALS, ("",)),
        "{s} has {a} {v}.|{s} keeps {a} {v}.|{s} owns {a} {v}.|{s} has {a} {v} at home.|{s} bought {a} {v}.|{s} looks after {a} {v}."
        "|{s} got {a} {v} last year.|{s} feeds {r} {v} every day.|{s} comes home to {a} {v}.|{a} {v} lives with {o}."
        "|{s} took in {a} {v}.|{s} was given {a} {v} as a present.",
        "what pet does {s} have?|what animal does {s} keep?|which animal does {s} have?|what kind of pet does {s} own?|which pet does {s} own?"
        "|what kind of animal does {s} have?|what animal did {s} buy?|which animal does {s} look after?"
        "|what sort of pet does {s} have?|what does {s} have as a pet?|which animal is at home with {o}?|what pet did {s} get?",
        "at home, {a} {v} waits for {o}.||what animal lives with {o}?",
        "who has {a} {v}?|who keeps {a} {v}?|who owns {a} {v}?",
    ),
    attribute(
        "people",
        "employer|company|firm",
        p.company,
        "{s} works at {v}.|{s} works for {v}.|{s} is employed at {v}.|{s} has a job at {v}.|{s} joined {v}.|{v} employs {o}.|{s} is with {v}."
        "|{s} earns {r} money at {v}.|{s} got a job with {v}.|{s} has been at {v} for years.|{s} signed with {v}."
        "|{v} pays {p} wages.",
        "where does {s} work?|which company does {s} work for?|who employs {o}?|at which company does {s} work?|what company does {s} work at?"
        "|for which firm does {s} work?"
        "|for whom does {s} work?|which company employs {o}?|which company did {s} join?|what firm is {s} with?"
        "|who pays {p} wages?|at which firm does {s} have a job?",
        "{s} is on the staff of {v}.|{v} hired {o}.||what firm employs {o}?|at what company is {o} employed?",
        "who works at {v}?|who works for {v}?|who is employed at {v}?|who joined {v}?",
    ),
    attribute(
        "people",
        "office|desk|room|workplace",
        p.room,
        "{s} sits in {v}.|{s} works in {v}.|{p} office is {v}.|you can find {o} in {v}.|{s} can be found in {v}.|{p} desk is in {v}.|{s} has moved to {v}."
        "|{s} has a desk in {v}.|{v} is {p} room.|to meet {o}, come to {v}.|{s} spends the day in {v}.",
        "where does {s} sit?|which room is {o} in?|where can I find {o}?|where is {p} office?|which room does {s} work in?|where is {p} desk?"
        "|in which room does {s} sit?|where does {s} have a desk?|where do I go to see {o}?|what room is {o} in?"
        "|where is {s} to be found?|to which room has {s} moved?",
        "look for {o} in {v}.|{v} is where {s} sits.||in what room can {o} be found?|what room is {p} desk in?",
        "who sits in {v}?|who works in {v}?|who can be found in {v}?",
    ),
    attribute(
        "codes",
        "=locker code|badge number|access code|pin|employee number|staff ID|membership number|passport number|library card|"
        "customer number|parking permit|account number|login code|licence plate|ticket number|student number|insurance number",
        p.code,
        "{s} uses the {n} {v}.|{s} was given the {n} {v}.|{s} got the {n} {v}.|the {n} {v} belongs to {o}.|{v} is the {n} given to {o}."
        "|{v} was given to {o} as {r} {n}.|{s} shows the {n} {v}.|{s} carries the {n} {v}.|the {n} {v} is registered to {o}."
        "|with {v} as the {n}, {s} is in the system.|to log {o} in, use the {n} {v}.|{s} received {v} as {r} {n}.",
        "which {n} does {s} use?|which {n} was given to {o}?|what {n} did {s} get?|what {n} does {s} use?"
        "|which {n} did {s} get?|what {n} was given to {o}?|which {n} is registered to {o}?|what {n} did {s} receive?"
        "|which {n} does {s} show?|with what {n} is {s} in the system?|what {n} is in {p} name?|by which {n} do we know {o}?",
        "we issued the {n} {v} to {o}.||what {n} was issued to {o}?",
        "who uses the {n} {v}?|who was given the {n} {v}?|to whom does the {n} {v} belong?",
    ),
    attribute(
        "preferences",
        "favourite colour|favorite color|preferred colour",
        p.open_choice(p.COLOURS, ("",)),
        "{s} likes the colour {v} best.|{s} loves {v}.|{s} prefers the colour {v}.|{v} is the colour {s} likes most.|{s} always wears {v}."
        "|{s} painted the whole flat {v}.|{v} is the colour for {o}.|{s} buys everything in {v}.|{s} is happiest in {v}."
        "|for {o}, nothing beats {v}.|if {s} can choose, it is {v}.|{s} finds {v} the most beautiful colour.",
        "what colour does {s} like best?|which colour does {s} prefer?|what color does {s} like?|what colour does {s} love?|which color is {p} favourite?"
        "|what colour is {p} favourite?|in which colour does {s} buy everything?|which colour is best for {o}?"
        "|which colour does {s} love?|what colour does {s} always wear?|what is the colour that {s} likes most?"
        "|what colour should I buy for {o}?",
        "of all colours, {s} would pick {v}.||what colour would {s} pick?",
        "who likes the colour {v} best?|who prefers {v}?",
    ),
    attribute(
        "preferences",
        "favourite food|favorite dish|favourite meal|favourite dish|preferred meal",
        p.open_choice(p.FOODS, p.FOOD_ENDS),
        "{s} loves to eat {v}.|{s} likes {v} best.|{s} orders {v} every time.|{s} prefers {v} for lunch.|{s} could eat {v} every day.|{s} is fond of {v}."
        "|{v} makes {o} happy at dinner.|{s} cooks {v} on Sundays.|if {s} may choose, we have {v}.|for dinner, {s} wants {v}."
        "|{s} asks for {v} on {r} birthday.|there is nothing {s} would rather eat than {v}.",
        "what does {s} like to eat?|what food does {s} like best?|what does {s} love to eat?|which dish does {s} prefer?|what does {s} prefer for lunch?|what does {s} order?"
        "|what does {s} cook on Sundays?|what should I cook for {o}?|which food does {s} love?"
        "|what would {s} rather eat than anything?|what does {s} want for dinner?|what is {o} fond of eating?",
        "nothing tastes better to {o} than {v}.||what food tastes best to {o}?",
        "who loves {v}?|who likes {v} best?|whose favourite food is {v}?",
    ),
    attribute(
        "preferences",
        "favourite drink|favorite drink|preferred drink|drink of choice",
        p.open_choice(p.DRINKS, p.DRINK_ENDS),
        "{s} likes to drink {v}.|{s} always drinks {v}.|{s} drinks {v} in the morning.|{s} prefers {v}.|{s} orders {v} at the bar.|{s} never says no to {v}."
        "|{s} starts the day with {v}.|get {o} some {v}.|{s} asked for {v}.|{s} has {v} with every meal.|{v} is what {s} drinks."
        "|for {o}, {v} is the best drink.",
        "what does {s} drink?|what does {s} like to drink?|what drink does {s} prefer?|which drink does {s} like best?|what does {s} drink in the morning?"
        "|what does {s} order at the bar?|what should I bring {o} to drink?|what does {s} have with every meal?"
        "|which drink does {s} always order?|with what does {s} start the day?|what does {s} always drink?"
        "|what kind of drink does {s} like?",
        "pour {o} some {v}.||what should we pour for {o}?|what would {s} like to drink?",
        "who drinks {v}?|who likes to drink {v}?|who prefers {v}?",
    ),
    attribute(
        "preferences",
        "allergy|intolerance",
        p.open_choice(p.ALLERGENS, ("", "s")),
        "{s} is allergic to {v}.|{s} has an allergy to {v}.|{s} cannot have {v}.|{s} reacts badly to {v}.|{s} must avoid {v}.|contact with {v} makes {o} ill.|{s} does not tolerate {v}."
        "|{s} gets sick from {v}.|no {v} for {o}, please.|{s} found out about {r} allergy to {v}."
        "|the doctor told {o} to avoid {v}.|{s} stays away from {v} because of an allergy.",
        "what is {o} allergic to?|what is {s} allergic to?|which allergy does {s} have?|what must {s} avoid?|what can {s} not have?|what does {s} react badly to?|what makes {o} ill?"
        "|to what is {s} allergic?|from what does {s} get sick?|what allergy does {s} have?|what did the doctor tell {o} to avoid?"
        "|what should {s} stay away from?",
        "keep {v} away from {o}.||what should be kept away from {o}?|what does {s} not tolerate?",
        "who is allergic to {v}?|who must avoid {v}?|who has an allergy to {v}?",
    ),
    attribute(
        "preferences",
        "hobby|pastime|favourite sport|interest",
        p.open_choice(p.HOBBIES, p.HOBBY_ENDS),
        "{s} enjoys {v}.|{s} spends weekends on {v}.|in {r} free time, {s} does {v}.|{s} is keen on {v}.|{s} took up {v}.|{s} likes {v}.|{s} is mad about {v}."
        "|{s} loves {v}.|every weekend, {s} does {v}.|{s} talks about {v} all the time.|{s} relaxes with {v}."
        "|{s} got into {v} last year.",
        "what does {s} do in {r} free time?|what does {s} enjoy?|what is {o} keen on?|which hobby does {s} have?|what hobby did {s} take up?|what does {s} do on weekends?"
        "|how does {s} spend weekends?|what is {o} mad about?|how does {s} relax?|what does {s} do for fun?"
        "|what does {s} do after work?|which pastime does {s} enjoy?",
        "{v} keeps {o} busy after work.||what keeps {o} busy after work?",
        "who enjoys {v}?|who is keen on {v}?|who took up {v}?|who likes {v}?",
    ),
    attribute(
        "people",
        "native language|first language|mother tongue",
        p.language,
        "{s} speaks {v}.|{s} is fluent in {v}.|{s} learned {v}.|{s} grew up speaking {v}.|{s} talks to us in {v}.|{s} teaches {v}."
        "|{p} parents speak {v}.|at home, {s} speaks {v}.|{s} writes in {v}.|{s} understands {v}.|{s} prefers to talk in {v}."
        "|{v} is the language of {p} family.",
        "which language does {s} speak?|what language does {s} speak?|what language is {o} fluent in?|which language did {s} learn?|in which language does {s} talk to us?"
        "|what language does {s} speak at home?|in what language does {s} write?|what language did {s} grow up with?"
        "|which language is {o} fluent in?|what does {s} speak at home?|which language is spoken by {o}?"
        "|what language did {s} learn?",
        "you can talk to {o} in {v}.||in what language can we talk to {o}?",
        "who speaks {v}?|who is fluent in {v}?|who learned {v}?",
    ),
    attribute(
        "appointments",
        "=dentist appointment|doctor's appointment|interview|driving lesson|haircut|check-up|exam|piano lesson|flight|"
        "appointment|shift|meeting|eye test|train",
        p.clock,
        "{s} has a {n} at {v}.|{p} {n} is at {v}.|{p} {n} starts at {v}.|{p} {n} begins at {v}.|{s} is booked in for a {n} at {v}.|at {v}, {s} has a {n}."
        "|{s} must not miss the {n} at {v}.|{s} has to leave for the {n}, which is at {v}.|the {n} for {o} begins at {v}."
        "|they expect {o} for the {n} at {v}.|{p} {n} has been moved to {v}.|the time of {p} {n} is {v}.",
        "when is {p} {n}?|at what time is {p} {n}?|what time is {p} {n}?|when does {p} {n} start?|when does {s} have a {n}?|what time does {p} {n} begin?"
        "|for what time is {p} {n} set?|when should {s} be there for the {n}?|what is the time of {p} {n}?"
        "|when do they expect {o} for the {n}?|to what time was {p} {n} moved?|how late is {p} {n}?",
        "{s} should be there for the {n} at {v}.||at what hour is {p} {n}?",
        "who has a {n} at {v}?|whose {n} is at {v}?",
    ),
    attribute(
        "appointments",
        "=dentist appointment|doctor's appointment|interview|driving test|holiday|check-up|exam|piano recital|flight|"
        "wedding|graduation|training|hearing|visit",
        p.date,
        "{s} has a {n} on {v}.|{p} {n} is on {v}.|{p} {n} takes place on {v}.|{p} {n} was moved to {v}.|{s} is booked in for a {n} on {v}.|on {v}, {s} has a {n}."
        "|{s} will have {r} {n} on {v}.|the {n} of {o} is planned for {v}.|the day of {p} {n} is {v}.|{p} {n} was booked for {v}."
        "|{s} is away on {v} for a {n}.|they expect {o} for the {n} on {v}.",
        "when is {p} {n}?|on what date is {p} {n}?|what day is {p} {n}?|on which day is {p} {n}?|when does {s} have a {n}?|to which date was {p} {n} moved?"
        "|what is the date of {p} {n}?|for which day is {p} {n} planned?|when does {p} {n} take place?|which day is {p} {n}?"
        "|when will {s} have the {n}?|on what day does {s} have a {n}?",
        "{s} marked {v} for the {n}.||which date did {s} mark for the {n}?",
        "who has a {n} on {v}?|whose {n} is on {v}?",
    ),
    attribute(
        "times",
        "=start time|arrival time|lunch break|departure time|bedtime|closing time|parking time",
        p.clock,
        "{p} {n} is at {v}."
        "|{p} {n} is set for {v}.|{p} {n} will be at {v}.|for {o}, the {n} is at {v}.|we put {p} {n} at {v}."
        "|{p} {n} was moved to {v}.|at {v} it is time for {p} {n}.|{s} has {r} {n} at {v}.|the clock shows {v} at {p} {n}."
        "|{p} {n} has been fixed at {v}.|{s} asked for a {n} at {v}.|expect {p} {n} at {v}.",
        "when is {p} {n}?|at what time is {p} {n}?"
        "|what time is {p} {n}?|for what time is {p} {n} set?|when does {s} have {r} {n}?|when should I expect {p} {n}?"
        "|at which time is {p} {n}?|what time did {s} ask for as {n}?|to when was {p} {n} moved?|when will {p} {n} be?"
        "|what does the clock show at {p} {n}?|how late is {p} {n}?",
        "||what hour is {p} {n}?",
        "",
    ),
    attribute(
        "times",
        "wake-up time",
        p.clock,
        "{s} gets up at {v}.|{s} wakes up at {v}.|{s} is awake at {v}."
        "|{p} alarm rings at {v}.|{s} is up at {v}.|at {v}, {s} gets out of bed.|{s} rises at {v}.|{p} day begins at {v}."
        "|{s} sets the alarm for {v}.|wake {o} at {v}.|by {v}, {s} is on {r} feet.|{s} sleeps until {v}.",
        "when does {s} get up?|at what time does {s} wake up?|what time does {s} get up?"
        "|when does {s} wake up?|when does {p} alarm ring?|until when does {s} sleep?|when should I wake {o}?"
        "|when does {s} get out of bed?|for what time does {s} set the alarm?|when does {p} day begin?"
        "|at what time does {s} get up?|how early does {s} rise?",
        "||at what hour does {s} wake up?",
        "who gets up at {v}?|who wakes up at {v}?",
    ),
    attribute(
        "prices",
        "=salary|rent|monthly rent|deposit|bonus|budget|hourly rate|fine",
        p.price,
        "{p} {n} comes to {v}.|{p} {n} amounts to {v}.|{s} has a {n} of {v}.|{p} {n} rose to {v}."
        "|{s} pays {v} as {n}.|{s} agreed to a {n} of {v}.|{p} {n} was set at {v}.|{p} {n} went down to {v}."
        "|a {n} of {v} was agreed with {o}.|for {o}, the {n} makes {v}.|we put {p} {n} at {v}.|the amount of {p} {n} is {v}.",
        "how much is {p} {n}?|how high is {p} {n}?|what is the amount of {p} {n}?"
        "|what does {p} {n} come to?|what does {p} {n} amount to?|to how much did {p} {n} rise?|how large is {p} {n}?"
        "|how much money is {p} {n}?|what {n} was agreed with {o}?|what figure do we have for {p} {n}?"
        "|at how much was {p} {n} set?|what amount is {p} {n}?",
        "||what sum is {p} {n}?",
        "who has a {n} of {v}?|whose {n} is {v}?",
    ),
    attribute(
        "people",
        "",
        p.open_choice(p.THINGS, p.THING_ENDS),
        "{s} bought {a} {v}.|{s} ordered {a} {v}.|{s} owns {a} {v}.|{s} has a new {v}.|{s} sold {a} {v}."
        "|{s} got {a} {v} in the sale.|{s} came home with {a} {v}.|{s} picked up {a} {v} at the shop."
        "|{a} {v} was delivered to {o}.|last week {s} paid for {a} {v}.|{s} chose {a} {v}.|{s} is the proud owner of {a} {v}.",
        "what did {s} buy?|what did {s} order?|what does {s} own?"
        "|what did {s} get in the sale?|what did {s} come home with?|what was delivered to {o}?|what did {s} pick up at the shop?"
        "|which thing did {s} buy?|what did {s} pay for?|what did {s} choose?|what new thing does {s} have?"
        "|of what is {s} the owner?",
        "||what has {s} bought?",
        "who bought {a} {v}?|who owns {a} {v}?",
    ),
)
