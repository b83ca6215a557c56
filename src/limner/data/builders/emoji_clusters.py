"""Which emoji count as one concept, and how a caption is made from an emoji's label.

Owns: the caption rules (`caption`, `keywords`) and the clusters (`cluster_of`). A cluster is the
unit of every train / held-out split of the emoji data set, so it must contain all that would give a
withheld picture away: the gender variants of a person, mirrored drawings, the same thing in another
colour, count or state ("closed book", "green book"), and an animal's face next to the animal.
Assumes: labels are the English CLDR short names. Renaming a cluster moves it to another split.
Data flow: label -> family table, or label without gender and direction -> slug.
"""

import re
import unicodedata

MAX_KEYWORDS = 8
APOSTROPHE = "\u2019"
GENDER = re.compile(r"^(?:man|woman|person|men|women|people)[: ] *")
DIRECTION = re.compile(r"[:,]? facing right$")

# Cluster id -> labels. Labels of people stand without gender ("man: bald" is "bald") except where
# the gender is all there is.
FAMILIES = {
    # Bare yellow faces share all but a few strokes: no two of them may lie in different splits.
    "plain-face": (
        "grinning face; grinning face with big eyes; grinning face with smiling eyes; beaming "
        "face with smiling eyes; grinning squinting face; grinning face with sweat; rolling on "
        "the floor laughing; face with tears of joy; slightly smiling face; upside-down face; "
        "smiling face with smiling eyes; smiling face; smiling face with halo; relieved face; "
        "winking face; smiling face with tear; face blowing a kiss; kissing face; kissing face "
        "with closed eyes; kissing face with smiling eyes; face savoring food; face with tongue; "
        "winking face with tongue; zany face; squinting face with tongue; face with hand over "
        "mouth; face with open eyes and hand over mouth; neutral face; expressionless face; face "
        "without mouth; dotted line face; smirking face; unamused face; shaking face; head "
        "shaking horizontally; head shaking vertically; sleepy face; sleeping face; confused "
        "face; face with diagonal mouth; worried face; slightly frowning face; frowning face; "
        "frowning face with open mouth; anguished face; pensive face; disappointed face; face "
        "with open mouth; hushed face; astonished face; flushed face; anxious face with sweat; "
        "fearful face; crying face; loudly crying face; sad but relieved face; downcast face with "
        "sweat; face holding back tears; pleading face; confounded face; persevering face; weary "
        "face; tired face; face with steam from nose; enraged face; angry face; face with symbols "
        "on mouth; face with rolling eyes; face with raised eyebrow; thinking face; face with "
        "monocle; shushing face; lying face; drooling face; yawning face; face exhaling; woozy "
        "face; face with spiral eyes; face with crossed-out eyes; melting face; grimacing face; "
        "face screaming in fear; zipper-mouth face; saluting face; face with peeking eye; smiling "
        "face with open hands; smiling face with hearts; smiling face with heart-eyes; "
        "star-struck; hot face; cold face; nauseated face; face vomiting; sneezing face; "
        "money-mouth face"
    ),
    "horned-face": "smiling face with horns; angry face with horns",
    "skull": "skull; skull and crossbones",
    "cat": (
        "grinning cat; grinning cat with smiling eyes; cat with tears of joy; smiling cat with "
        "heart-eyes; cat with wry smile; kissing cat; weary cat; crying cat; pouting cat; cat "
        "face; cat; black cat"
    ),
    "monkey": "see-no-evil monkey; hear-no-evil monkey; speak-no-evil monkey; monkey face; monkey",
    "heart": (
        "heart with arrow; heart with ribbon; sparkling heart; growing heart; beating heart; "
        "revolving hearts; two hearts; heart decoration; heart exclamation; broken heart; heart "
        "on fire; mending heart; red heart; pink heart; orange heart; yellow heart; green heart; "
        "blue heart; light blue heart; purple heart; brown heart; black heart; grey heart; white "
        "heart; heart suit"
    ),
    "speech-balloon": ("speech balloon; left speech bubble; right anger bubble; thought balloon; eye in speech bubble"),
    "flat-hand": (
        "raised back of hand; hand with fingers splayed; raised hand; waving hand; vulcan salute; "
        "rightwards hand; leftwards hand; palm down hand; palm up hand; leftwards pushing hand; "
        "rightwards pushing hand"
    ),
    "pointing-hand": (
        "backhand index pointing left; backhand index pointing right; backhand index pointing up; "
        "backhand index pointing down; index pointing up; index pointing at the viewer"
    ),
    "horns-hand": "pinching hand; love-you gesture; sign of the horns; call me hand",
    "two-fingers": "victory hand; crossed fingers",
    "thumb": "thumbs up; thumbs down",
    "fist": "raised fist; oncoming fist; left-facing fist; right-facing fist",
    "open-palms": "open hands; palms up together; raising hands",
    "ear": "ear; ear with hearing aid",
    "eye": "eyes; eye",
    "mouth": "mouth; biting lip",
    "arm": "flexed biceps; mechanical arm",
    "leg": "leg; mechanical leg; foot",
    "person": (
        "man; woman; person; child; boy; girl; blond hair; beard; red hair; curly hair; white "
        "hair; bald; older person; old man; old woman"
    ),
    "baby": "baby; baby angel",
    "royalty": "prince; princess; with crown",
    "claus": "santa claus; mrs. claus; mx claus",
    "merfolk": "merperson; merman; mermaid",
    "pregnant": "pregnant woman; pregnant man; pregnant person",
    "feeding-baby": "breast-feeding; feeding baby",
    "deaf": "deaf person; deaf man; deaf woman",
    "wheelchair": ("in motorized wheelchair; in manual wheelchair; manual wheelchair; motorized wheelchair"),
    "white-cane": "with white cane; white cane",
    "biking": "biking; mountain biking",
    "business-suit": "office worker; in tuxedo",
    "head-covering": "wearing turban; with skullcap; with headscarf",
    "bathtub": "bathtub; taking bath",
    "silhouette": "bust in silhouette; busts in silhouette",
    "dog": "dog face; dog; guide dog; service dog; poodle",
    "tiger": "tiger face; tiger; leopard",
    "horse": "horse face; horse",
    "cow": "cow face; ox; water buffalo; cow; bison",
    "pig": "pig face; pig; boar; pig nose",
    "sheep": "ram; ewe; goat",
    "camel": "camel; two-hump camel; llama",
    "elephant": "elephant; mammoth",
    "mouse": "mouse face; mouse; rat",
    "rabbit": "rabbit face; rabbit",
    "bear": "bear; polar bear",
    "deer": "deer; moose",
    "chicken": "chicken; rooster",
    "chick": "hatching chick; baby chick; front-facing baby chick",
    "bird": "bird; black bird",
    "whale": "spouting whale; whale",
    "dragon": "dragon face; dragon",
    "fish": "fish; tropical fish",
    "spider": "spider; spider web",
    "rose": "rose; wilted flower",
    "tree": "evergreen tree; deciduous tree; christmas tree",
    "clover": "shamrock; four leaf clover",
    "leaf": "maple leaf; fallen leaf; leaf fluttering in wind",
    "nest": "empty nest; nest with eggs",
    "mushroom": "mushroom; brown mushroom",
    "apple": "red apple; green apple",
    "lemon": "lemon; lime",
    "flatbread": "flatbread; stuffed flatbread",
    "rice-bowl": "cooked rice; curry rice",
    "ice-cream": "soft ice cream; shaved ice; ice cream",
    "cake": "birthday cake; shortcake",
    "hot-drink": "hot beverage; teacup without handle",
    "beer": "beer mug; clinking beer mugs",
    "cutlery-plate": "fork and knife with plate; fork and knife",
    "globe": "globe showing europe-africa; globe showing americas; globe showing asia-australia",
    "mountain": "snow-capped mountain; mountain; mount fuji",
    "house": "houses; derelict house; house; house with garden",
    "post-office": "japanese post office; post office",
    "hotel": "hotel; love hotel",
    "church": "church; wedding",
    "sunrise": "sunrise over mountains; sunrise; sunset",
    "cityscape": "cityscape; cityscape at dusk; night with stars; bridge at night",
    "tent": "tent; camping",
    "train": (
        "locomotive; railway car; high-speed train; bullet train; train; metro; light rail; "
        "station; tram; monorail; mountain railway; tram car; suspension railway"
    ),
    "cable-car": "mountain cableway; aerial tramway",
    "bus": "bus; oncoming bus; trolleybus; minibus",
    "police-car": "police car; oncoming police car",
    "taxi": "taxi; oncoming taxi",
    "car": "automobile; oncoming automobile; sport utility vehicle",
    "truck": "delivery truck; articulated lorry; pickup truck",
    "traffic-light": "horizontal traffic light; vertical traffic light",
    "motor-boat": "speedboat; motor boat",
    "ship": "passenger ship; ferry; ship",
    "airplane": "airplane; small airplane; airplane departure; airplane arrival",
    "hourglass": "hourglass done; hourglass not done",
    "moon": (
        "new moon; waxing crescent moon; first quarter moon; waxing gibbous moon; full moon; "
        "waning gibbous moon; last quarter moon; waning crescent moon; crescent moon; new moon "
        "face; first quarter moon face; last quarter moon face; full moon face"
    ),
    "sun": "sun; sun with face",
    "cloud": (
        "cloud; sun behind cloud; cloud with lightning and rain; sun behind small cloud; sun "
        "behind large cloud; sun behind rain cloud; cloud with rain; cloud with snow; cloud with "
        "lightning"
    ),
    "star": "star; glowing star; shooting star",
    "umbrella": "closed umbrella; umbrella; umbrella with rain drops; umbrella on ground",
    "snowman": "snowman; snowman without snow",
    "droplet": "droplet; sweat droplets",
    "sparkler": "fireworks; sparkler",
    "ticket": "admission tickets; ticket",
    "medal": "military medal; sports medal; 1st place medal; 2nd place medal; 3rd place medal",
    "card-suit": "spade suit; club suit; diamond suit",
    "baseball": "baseball; softball",
    "oval-football": "american football; rugby football",
    "eyewear": "glasses; sunglasses; goggles",
    "shirt": "t-shirt; running shirt",
    "swimsuit": "one-piece swimsuit; bikini",
    "handbag": "purse; handbag; clutch bag",
    "helmet": "military helmet; rescue worker\u2019s helmet",
    "heeled-shoe": "high-heeled shoe; woman\u2019s sandal",
    "drum": "drum; long drum",
    "musical-note": "musical score; musical note; musical notes",
    "microphone": "studio microphone; microphone",
    "speaker": "muted speaker; speaker low volume; speaker medium volume; speaker high volume",
    "bell": "bell; bell with slash",
    "mobile-phone": "mobile phone; mobile phone with arrow",
    "telephone": "telephone; telephone receiver",
    "battery": "battery; low battery",
    "disk": "computer disk; optical disk; dvd",
    "camera": "camera; camera with flash",
    "magnifying-glass": "magnifying glass tilted left; magnifying glass tilted right",
    "book": (
        "notebook with decorative cover; closed book; open book; green book; blue book; orange "
        "book; books; notebook; ledger"
    ),
    "page": "spiral notepad; receipt; page with curl; page facing up; bookmark tabs",
    "newspaper": "newspaper; rolled-up newspaper",
    "banknote": "yen banknote; dollar banknote; euro banknote; pound banknote; money with wings",
    "chart": "chart increasing; chart decreasing; bar chart; chart increasing with yen",
    "envelope": "envelope; e-mail; incoming envelope; envelope with arrow; love letter",
    "tray": "outbox tray; inbox tray",
    "mailbox": (
        "closed mailbox with raised flag; closed mailbox with lowered flag; open mailbox with "
        "raised flag; open mailbox with lowered flag"
    ),
    "folder": "file folder; open file folder",
    "calendar": "calendar; tear-off calendar; spiral calendar",
    "pushpin": "pushpin; round pushpin",
    "paperclip": "paperclip; linked paperclips",
    "lock": "locked; unlocked; locked with pen; locked with key",
    "key": "key; old key",
    "hammer": "hammer; pick; hammer and pick; hammer and wrench",
    "chain": "link; broken chain; chains",
    "blade": "dagger; crossed swords",
    "pen": "black nib; fountain pen; pen",
}
CLUSTER_OF_LABEL = {label.strip(): cluster for cluster, labels in FAMILIES.items() for label in labels.split(";")}


def slug(text: str) -> str:
    """Lower-case ASCII words joined by hyphens: "woman's boot" -> "womans-boot"."""
    plain = unicodedata.normalize("NFKD", text.lower().replace(APOSTROPHE, "").replace("'", ""))
    return re.sub(r"[^a-z0-9]+", "-", plain.encode("ascii", "ignore").decode()).strip("-")


def cluster_of(label: str) -> str:
    """The id of the concept that a CLDR label belongs to; variants of one concept share it."""
    plain = DIRECTION.sub("", label.lower())
    ungendered = GENDER.sub("", plain)
    family = CLUSTER_OF_LABEL.get(plain) or CLUSTER_OF_LABEL.get(ungendered)
    return family or slug(ungendered)


def caption(label: str) -> str:
    """A label as plain words: "man: red hair" -> "man with red hair", straight quotes."""
    name = DIRECTION.sub(" facing right", label.replace(APOSTROPHE, "'"))
    name = re.sub(r"^(\w+): bald$", r"bald \1", name)
    name = re.sub(r"^(\w+): beard$", r"\1 with a beard", name)
    return re.sub(r"^(\w+): ", r"\1 with ", name)


def keywords(tags: list[str], *, name: str) -> list[str]:
    """At most `MAX_KEYWORDS` tags in published order, without repeats and without the name."""
    plain = (tag.replace(APOSTROPHE, "'") for tag in tags)
    unique = dict.fromkeys(tag for tag in plain if tag.lower() != name.lower())
    return list(unique)[:MAX_KEYWORDS]
