"""The words of `stories`: kinds of things, English exceptions, plots and templates.

Owns text only; `stories` fills it. Assumes names and subgroups as in Unicode's emoji list. A plot
is a paragraph, a sentence a line. A template is one line: turns of user and assistant in turn,
parted by "||" (a single turn is a page without roles). `[slot]` is the picture of a slot; `{slot}`,
`{a_slot}`, `{the_slot}`, `{this_slot}`, `{words_slot}`, `{kind_slot}` ... are phrases about it.
"""

import re


def _items(text: str) -> tuple[str, ...]:
    """The items of a text with one item per line, or parted by ";"; runs of spaces become one."""
    return tuple(" ".join(item.split()) for item in re.split(r"[;\n]", text) if item.strip())


def _table(text: str) -> dict[str, tuple[str, ...]]:
    """key -> items, from lines "key: item; item"."""
    rows = (line.split(":", 1) for line in text.strip().splitlines())
    return {key.strip(): _items(values) for key, values in rows}


# The kind of thing that a name is, from its subgroup where that is uniform, else from the name.
KIND_SUBGROUPS = _table("""
    animal: animal-mammal; animal-bird; animal-amphibian; animal-reptile
    sea animal: animal-marine
    bug: animal-bug
    flower: plant-flower
    fruit: food-fruit
    vegetable: food-vegetable
    dish: food-prepared; food-asian
    sweet: food-sweet
    instrument: musical-instrument
""")
KIND_NAMES = _table("""
    person: farmer; cook; teacher; student; mechanic; scientist; singer; artist; pilot; astronaut; \
      firefighter; detective; guard; ninja; prince; princess; superhero; mage; fairy; vampire; \
      mermaid; elf; genie; troll; child; boy; girl; old man; old woman; judge; police officer; \
      robot; ghost; alien; snowman; Santa Claus
    vehicle: locomotive; train; tram; bus; minibus; trolleybus; ambulance; fire engine; \
      police car; taxi; automobile; pickup truck; delivery truck; tractor; racing car; motorcycle; \
      motor scooter; auto rickshaw; bicycle; kick scooter; sport utility vehicle
    boat: sailboat; canoe; speedboat; ferry; motor boat; ship; passenger ship
    aircraft: airplane; small airplane; helicopter; rocket; flying saucer; parachute
    place: mountain; snow-capped mountain; volcano; desert; desert island; national park; \
      fountain; ferris wheel; roller coaster; stadium; bridge at night; factory; \
      Statue of Liberty; Tokyo tower
    shelter: hut; house; house with garden; derelict house; castle; Japanese castle; tent; church; \
      school; hotel; circus tent; classical building; hospital; bank
    storm: cloud with rain; cloud with lightning; cloud with snow; cloud with lightning and rain; \
      tornado; cyclone
    sight: crescent moon; full moon; shooting star; glowing star; star; comet; ringed planet; \
      rainbow
    clothes: scarf; coat; dress; kimono; necktie; t-shirt; crown; top hat; billed cap; \
      graduation cap; woman's hat; backpack; handbag; purse; running shoe; hiking boot
    tool: hammer; axe; carpentry saw; wrench; screwdriver; toolbox; ladder; shovel; magnet; hook
    toy: yo-yo; kite; teddy bear; balloon; soccer ball; basketball; volleyball; puzzle piece; \
      game die; video game; sled; skateboard; flying disc
    treasure: ring; gem stone; key; old key; coin; trophy; treasure chest; money bag; \
      crystal ball; magic wand; scroll; bell
    light: candle; flashlight; light bulb; red paper lantern; diya lamp
    drink: glass of milk; teapot; cup with straw; bubble tea; beverage box; tropical drink
""")
# kind -> singular; plural; what one would ask for. Only these kinds are asked about by kind.
KIND_WORDS = _table("""
    animal: animal; animals; an animal
    sea animal: sea animal; sea animals; something that lives in the sea
    flower: flower; flowers; something that blooms
    fruit: fruit; fruits; something to eat
    vegetable: vegetable; vegetables; something to eat
    sweet: sweet; sweets; something sweet to eat
    instrument: musical instrument; musical instruments; something to play music on
    vehicle: vehicle; vehicles; something to ride in
    boat: boat; boats; something that sails
    tool: tool; tools; something to work with
    toy: toy; toys; something to play with
    drink: drink; drinks; something to drink
""")
NEVER = _items("""
    paw prints; pig nose; feather; wing; hatching chick; front-facing baby chick; spiral shell
    coral; oyster; spider web; microbe; bouquet; rosette; wilted flower; cut of meat; cooking
    salt; egg; shallow pan of food; steaming bowl; fish cake with swirl; takeout box; guide dog
    service dog; maracas; white flower; cooked rice; meat on bone; poultry leg; canned food
    bento box; oden; cockroach; fly; mosquito
""")
SLOT_KINDS = _table("""
    hero: animal; person
    friend: animal; person
    ride: vehicle; boat; aircraft
    food: fruit; dish; sweet
    creature: bug
    fish: sea animal
""")

PLURALS = frozenset(
    _items("""
    revolving hearts; two hearts; hundred points; sweat droplets; pinched fingers
    crossed fingers; lungs; eyes; clapping hands; raising hands; heart hands; open hands
    folded hands; flexed biceps; busts in silhouette; footprints; paw prints; grapes; cherries
    blueberries; peanuts; beans; pancakes; french fries; skis; clinking beer mugs
    clinking glasses; chopsticks; houses; hot springs; fireworks; sparkles; bubbles
    Japanese dolls; admission tickets; nesting dolls; flower playing cards; glasses; sunglasses
    goggles; jeans; gloves; socks; briefs; shorts; woman's clothes; shopping bags; ballet shoes
    prayer beads; musical notes; control knobs; maracas; film frames; books; bookmark tabs
    card index dividers; linked paperclips; scissors; crossed swords; chains; palms up together
    people hugging; people wrestling; men wrestling; women wrestling; people holding hands
    women holding hands; men holding hands; people with bunny ears; men with bunny ears
    women with bunny ears; skull and crossbones; hammer and pick; hammer and wrench
    fork and knife; woman and man holding hands
""")
)
MASS = frozenset(
    _items("""
    bread; flatbread; stuffed flatbread; baguette bread; bacon; butter; salt; garlic; broccoli
    popcorn; sushi; spaghetti; shaved ice; soft ice cream; ice cream; cooked rice; curry rice
    oden; fondue; falafel; custard; ginger root; leafy green; sake; mate; ice; fog; wood; coral
    confetti ball; yarn; thread; soap; money with wings; pouring liquid; meat on bone; candy
""")
)
# Names that take no article, and those of which there is only one.
PROPER = frozenset(
    _items("""
    Santa Claus; Mrs. Claus; Mx Claus; Tokyo tower; mount fuji; rolling on the floor laughing
    dashing away; ZZZ; breast-feeding; camping; cooking; tennis; bowling; ping pong; badminton
    field hockey; ice hockey; lacrosse; horse racing; building construction; performing arts
    foggy; dizzy; dna; high voltage
""")
)
UNIQUE = frozenset(_items("Statue of Liberty; milky way; sun; kaaba"))
NAMES = _items("Pip; Robin; Sunny; Charlie; Sam; Alex; Kim; Pepper; Billie; Jo")
OPENINGS = _items("""
    Once upon a time; One sunny morning; Long ago; One day; Not so long ago; One fine day
    Last summer; Early one morning; In a land far away; Some years ago
""")

# A plot is a paragraph, a sentence a line; the picture of a marked slot follows its sentence.
PLOTS = tuple(tuple(map(str.strip, plot.strip().splitlines())) for plot in """
{opening}, {new_hero} went for a long walk. [hero]
On the way, {the_hero} found {a_treasure} in the grass. [treasure]
Someone was looking for it everywhere: {a_friend}! [friend]
{the_hero} gave the {treasure} back, and the two became best friends.

{opening}, {new_hero} was very hungry. [hero]
There was nothing left to eat at home.
Luckily, {a_friend} came by and brought {a_food}. [food]
They shared {the_food} and fell asleep with full bellies.

{opening}, {new_hero} dreamed of a long journey. [hero]
It was much too far to walk, so {the_hero} left in {a_ride}. [ride]
On the second day, thick fog came down and nobody could see the way.
When the fog was gone, there was {a_place} right ahead. [place]
"It was worth the trip," said {the_hero}.

{opening}, {new_hero} was far from home. [hero]
Suddenly {a_storm} appeared in the sky. [storm]
{the_hero} ran as fast as possible and hid in {a_shelter}. [shelter]
Soon the sky was blue again, and {the_hero} walked home whistling.

{opening}, {new_hero} climbed up to the attic. [hero]
In a dusty corner lay {a_instrument}. [instrument]
The first notes sounded terrible, and all the neighbours closed their windows.
Only {a_friend} stayed to listen. [friend]
{the_hero} practised every day, and at the end everybody came to the concert.

{opening}, {new_hero} planted a tiny seed. [hero]
Day after day {the_hero} gave it water, but nothing happened.
Then it rained all night, and in the morning there was {a_flower}. [flower]
Even {a_creature} came to admire it. [creature]

{opening}, {new_hero} went out into the wind. [hero]
Whoosh! Away flew {a_clothes}. [clothes]
{the_hero} searched by the river and behind the hill, but found nothing.
Then {a_friend} came along and was wearing it! [friend]
They both laughed, and {the_hero} got the {clothes} back.

{opening}, {new_hero} had a race against {a_friend}. [hero]
The {friend} was much faster, but stopped on the way to eat {a_food}. [food]
{the_hero} went on step by step and reached the finish first.
The prize was {a_treasure}, and everybody cheered. [treasure]

{opening}, {new_hero} went on holiday. [hero]
The journey began with {a_vehicle}, which stopped in the middle of nowhere. [vehicle]
After an hour, {a_friend} came along with {a_tool}. [tool]
Together they repaired everything, and {the_hero} got home before dark.

{opening}, {new_hero} had a birthday, but nobody seemed to remember. [hero]
Sad and alone, {the_hero} went home.
There {a_friend} was waiting with {a_sweet}. [sweet]
There was a present too: {a_toy}! [toy]
"This is the best day of my life," said {the_hero}.

{opening}, {new_hero} looked up at the sky. [hero]
High above, there was {a_sight}. [sight]
"I want to see it from near," said {the_hero}.
So {the_hero} took off in {a_aircraft} and flew higher and higher. [aircraft]
It was cold and very quiet up there, and {the_hero} was home again for breakfast.

{opening}, {new_hero} wanted to see the other side of the sea. [hero]
The voyage began in {a_boat}. [boat]
High waves came, and the {boat} began to sink.
Then {a_fish} rose from the deep and helped. [fish]
Back on land, {the_hero} waved for a long time.

{opening}, {new_hero} went to the market with one coin. [hero]
The coin was not enough for {a_sweet}. [sweet]
"Take {a_fruit} instead," said {a_friend} kindly. [fruit]
Nothing had ever tasted so good.

{opening}, there was {a_treasure} that nobody could reach. [treasure]
It lay behind the locked door of {a_shelter}. [shelter]
Many had tried to break the door, but it stayed shut.
Then {new_hero} came and simply asked, and the door opened. [hero]

{opening}, {new_hero} wanted to cook dinner for {a_friend}. [hero]
First, {the_hero} put {a_vegetable} into the big pot. [vegetable]
Then the pot fell over, and dinner was on the floor!
So they ate {a_dish} instead, and it was a lovely evening. [dish]

{opening}, {new_hero} felt lonely. [hero]
There was only {a_toy} to play with. [toy]
Then {a_friend} came around the corner and asked to join in. [friend]
They played until the sun went down.

{opening}, strange noises came from {a_shelter}. [shelter]
Everyone was afraid, and nobody went in.
Brave as always, {new_hero} opened the door. [hero]
Inside sat {a_friend}, crying in the dark. [friend]
{the_hero} brought {a_light}, and the noises stopped. [light]
""".strip().split("\n\n"))  # fmt: skip

# Requests for a story; {topic} is "a fox", or "a fox and a boat".
STORY_REQUESTS = _items("""
    Tell me a short illustrated story about {topic}.
    Tell me a story with pictures about {topic}.
    Write a short story about {topic}, with pictures.
    Can you tell me an illustrated story about {topic}?
    I would like a picture story about {topic}, please.
    Please write a little picture book about {topic}.
    Make up a story with pictures. It should be about {topic}.
    Story time! With pictures, please, about {topic}.
    Write an illustrated story. In it: {topic}.""")
WORDS_ONLY_REQUESTS = _items("""
    Tell me a short story about {topic}, without pictures.
    Only words, no pictures: a story about {topic}.
    Write a story about {topic}. Please do not draw anything.
    Tell me a story about {topic}. Text only.
    Can you tell me a story about {topic} with no pictures at all?""")
DRAW = tuple(f"{ask} || {answer}" for ask in _items("""
    Draw {a_any}.; Please draw {a_any}.; Draw {a_any} for me.; Can you draw {a_any}?
    Can you paint {a_any}?
    A picture of {a_any}, please.; Make a picture of {a_any}.; Show me {a_any}.
    I want to see {a_any}.
    Paint {a_any}, please.; Create an image of {a_any}.; {a_any}; Give me a picture of {a_any}.
    Could you make a drawing of {a_any}?; I need a picture of {a_any}.
    """) for answer in ("[any]", "[any]", "Here is {a_any}. [any]")) + _items("""
    Draw {hint_thing}: {words_thing}, {thing}. || [thing]
    {hint_thing}: {words_thing}, {thing} || [thing]
    A picture of {hint_thing}, please: {thing}. || Here is {a_thing}. [thing]
    Draw one picture for these words: {words_worded}. || [worded]
    {worded}, {words_worded} || [worded]
    I am thinking of {kind_thing}: {thing}. Can you draw it? || Here is {a_thing}. [thing]
    """)  # fmt: skip
DESCRIBE = _items("""
    [any] What is this? || {this_any}.
    [any] What do you see? || I see {a_any}.
    [any] What is in the picture? || {a_any}.
    [any] Describe this picture. || A picture of {a_any}.
    [any] What can you see here? || I can see {a_any}.
    [any] Name what is shown. || {a_any}.
    [any] Tell me what this is. || {this_any}.
    [worded] Which words go with this picture? || {words_worded}
    [worded] Give some keywords for this picture. || {words_worded}
    [worded] What is this, and which words go with it? || {this_worded}. Words: {words_worded}.
    [thing] What kind of thing is this? || {kind_thing}.
    [thing] What is it, and what kind of thing is it? || {this_thing}. It is {kind_thing}.
    [any] Is this {a_any}? || Yes, {this_any}.
    [any] Is this {a_other}? || No, {this_any}.
    [thing] Does this show {a_thing}? || Yes, {this_thing}.
    [thing] Does this show {a_alike}? || No, {this_thing}.""")
PLAIN = _items("""
    What kind of thing is meant by "{thing}"? || {kind_thing}.
    Which words go with "{worded}"? || {words_worded}
    Name three {kinds_thing}. || {a_thing}, {a_alike} and {a_third}.
    Name {kind_thing}. Do not draw it. || {a_thing}.
    Give me two examples of {kinds_thing}. || {a_thing} and {a_alike}.
    Tell me the names of some {kinds_thing}. || {a_thing}, {a_alike}, {a_third}.
    Is {a_thing} {kind_thing}? || Yes.
    What belongs together with "{worded}"? Use words only. || {words_worded}
    Do you know any {kinds_thing}? || Yes, for example {a_thing} and {a_alike}.
    Can you draw? || Yes. Tell me what you would like to see.
    What can you do? || I can look at pictures, draw pictures and tell stories.
    Hello! || Hello! What shall I draw or tell you?
    Thank you. || You are welcome.""")
CONVERSATION = _items("""
    [any] Look at this. || {this_any}. || [other] And this? || {this_other}. \
      || What did I show you first? || First you showed me {a_any}.
    [any] Look at this. || {this_any}. || [other] And what is this? || {this_other}. \
      || What did I show you last? || Last you showed me {a_other}.
    [any] [other] What is in the first picture? || {a_any}.
    [any] [other] What is in the second picture? || {a_other}.
    [any] [other] What do these two pictures show? || The first shows {a_any}, the second {a_other}.
    [any] [other] Which picture shows {a_any}? || The first.
    [other] [any] Which picture shows {a_any}? || The second.
    Draw {a_any}. || [any] || Draw it again. || [any]
    Draw {a_any}. || [any] || Now draw {a_other}. || [other]
    Draw {a_any}. || [any] || Now draw {a_other}. || [other] || What did you draw first? \
      || First I drew {a_any}.
    [any] What is this? || {this_any}. || Can you draw that too? || [any]
    [any] Draw this for me. || Here is {a_any}. [any]
    Can you draw {kind_thing}? || Yes: here is {a_thing}. [thing] || What is it called? \
      || {this_thing}.
    Draw {a_any}. || [any] || Thank you! || You are welcome.""")
PAGES = _items("""
    Three {kinds_thing}. First, {a_thing}. [thing] Second, {a_alike}. [alike] \
      Third, {a_third}. [third]
    Here is {a_thing}. [thing] And here is {a_alike}. [alike] Both are {kinds_thing}.
    {a_any}. [any]
    This page shows {a_any} [any] and {a_other}. [other]
    Show me three {kinds_thing}. \
      || First, {a_thing}. [thing] Second, {a_alike}. [alike] Third, {a_third}. [third]
    Make an illustrated page: three {kinds_thing}. \
      || First, {a_thing}. [thing] Second, {a_alike}. [alike] Third, {a_third}. [third]
    Show me two {kinds_thing}. || Here is {a_thing}. [thing] And here is {a_alike}. [alike]
    Show me {a_any} and {a_other}. || Here is {a_any}. [any] And here is {a_other}. [other]""")
# Never used in training: wordings for evaluation, by task.
HELD_OUT = {
    "story": _items("""
    I am in the mood for an illustrated tale of {topic}.
    Invent something short about {topic} and illustrate it.
    My daughter wants to hear about {topic}. Use pictures!"""),
    "draw": tuple(
        f"{ask} || [any]"
        for ask in _items("""
    Sketch {a_any}.; I'd love a drawing that shows {a_any}.; Would you illustrate {a_any} for me?
    Let me have a look at {a_any}.; How about an image showing {a_any}?
    Generate a small icon of {a_any}.
    My child wishes for {a_any} on paper.; What does {a_any} look like? Answer with a picture.""")
    ),
    "describe": _items("""
    [any] Which thing is pictured here? || {this_any}.
    [any] Caption this image. || {a_any}.
    [any] What might this be? || {this_any}.
    [any] Say in a few words what I am looking at. || {a_any}."""),
}

WEIGHTS = {
    "story": 30, "words_only": 8, "plain": 6, "draw": 24, "describe": 18, "conversation": 8,
    "page": 6,
}  # fmt: skip
