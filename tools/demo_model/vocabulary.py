"""Chooses the drawings that the model learns, and the words that a caption may use for them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

# Subcategories of labels.tsv that are learned, with words for the kind of things in each.
KINDS: dict[str, tuple[str, ...]] = {
    "animal-mammal": ("animal", "mammal"),
    "animal-bird": ("animal", "bird"),
    "animal-amphibian": ("animal", "amphibian"),
    "animal-reptile": ("animal", "reptile"),
    "animal-marine": ("animal", "sea animal"),
    "animal-bug": ("animal", "insect"),
    "plant-flower": ("plant", "flower"),
    "plant-other": ("plant",),
    "food-fruit": ("food", "fruit"),
    "food-vegetable": ("food", "vegetable"),
    "food-prepared": ("food", "meal"),
    "food-asian": ("food", "meal"),
    "food-sweet": ("food", "dessert"),
    "drink": ("drink",),
    "transport-ground": ("vehicle",),
    "transport-water": ("vehicle", "boat"),
    "transport-air": ("vehicle", "aircraft"),
    "place-building": ("building",),
    "place-religious": ("building",),
    "sport": ("sports equipment",),
    "musical-instrument": ("musical instrument",),
    "clothing": ("clothing",),
    "tool": ("tool",),
}

# Labels of these subcategories that are left out: signs, parts, pictures of whole places, near-duplicates.
LEFT_OUT = frozenset(
    """pig nose|paw prints|feather|wing|guide dog|service dog|black cat|black bird|front facing baby chick|
    hatching chick|microbe|white flower|rosette|wilted flower|blossom|leaf fluttering in wind|empty nest|
    spider web|cooking|shallow pan of food|pot of food|bowl with spoon|butter|canned food|rice cracker|oden|
    fish cake with swirl design|moon cake|takeout box|clinking beer mugs|clinking glasses|tumbler glass|
    pouring liquid|beverage box|mate drink|ice cube|sake bottle and cup|stuffed flatbread|building construction|
    brick|rock|wood|houses|derelict house|house with garden|japanese post office|european post office|hospital|
    bank|hotel|love hotel|convenience store|school|department store|japanese castle|wedding|tokyo tower|
    statue of liberty|kaaba|hindu temple|synagogue|mosque|shinto shrine|classical building|stadium|
    high speed train with bullet nose|metro|light rail|station|monorail|mountain railway|tram car|oncoming bus|
    trolleybus|minibus|oncoming police car|oncoming taxi|oncoming automobile|recreational vehicle|
    articulated lorry|manual wheelchair|motorized wheelchair|auto rickshaw|roller skate|bus stop|motorway|
    railway track|oil drum|fuel pump|wheel|police cars revolving light|horizontal traffic light|
    vertical traffic light|octagonal sign|construction sign|small airplane|airplane departure|airplane arriving|
    seat|suspension railway|mountain cableway|aerial tramway|motor boat|passenger ship|ring buoy|softball|
    rugby football|flying disc|cricket bat and ball|field hockey stick and ball|ice hockey stick and puck|
    lacrosse stick and ball|badminton racquet and shuttlecock|martial arts uniform|goal net|flag in hole|
    fishing pole and fish|diving mask|running shirt with sash|ski and ski boot|sled|curling stone|goggles|
    lab coat|safety vest|kimono|sari|one piece swimsuit|briefs|bikini|womans clothes|folding hand fan|purse|
    pouch|shopping bags|thong sandal|mans shoe|hiking boot|flat shoe|womans sandal|ballet shoes|womans boots|
    hair pick|military helmet|rescue worker s helmet|prayer beads|graduation cap|long drum|pick|hammer and pick|
    hammer and wrench|crossed swords|clamp|probing cane|link symbol|chains|hook|carpentry saw|
    balance scale|dodo|ox|water buffalo|tamale|fondue|bento box|fortune cookie|falafel""".replace("\n    ", "").split("|")
)

# Single labels that are learned, although their subcategory is left out.
EXTRA = frozenset(
    """volcano|snow capped mountain|tent|balloon|christmas tree|wrapped present|jack o lantern|bell|
    headphone|microphone|camera|television|radio|candle|electric light bulb|telescope|microscope|door|chair|bed|
    broom|bathtub|toilet|mirror|basket|bucket|open book|closed book|newspaper|teapot|spoon|fork and knife|hocho|
    rocket|moyai|luggage|circus tent|ferris wheel|fountain|amphora""".replace("\n    ", "").split("|")
)

# Words that a caption uses instead of the label; the first is the usual one.
NAMES: dict[str, tuple[str, ...]] = {
    "dromedary camel": ("camel", "dromedary"),
    "bactrian camel": ("camel", "bactrian camel"),
    "rhinoceros": ("rhinoceros", "rhino"),
    "hippopotamus": ("hippopotamus", "hippo"),
    "rabbit": ("rabbit", "bunny"),
    "dog": ("dog", "puppy"),
    "cat": ("cat", "kitten"),
    "boar": ("boar", "wild boar"),
    "baby chick": ("chick", "baby chick"),
    "rooster": ("rooster", "cock"),
    "parrot": ("parrot", "macaw"),
    "crocodile": ("crocodile", "alligator"),
    "turtle": ("turtle", "tortoise"),
    "sauropod": ("dinosaur", "sauropod"),
    "t rex": ("dinosaur", "tyrannosaurus"),
    "spouting whale": ("whale", "spouting whale"),
    "spiral shell": ("shell", "seashell"),
    "honeybee": ("bee", "honeybee"),
    "lady beetle": ("ladybug", "ladybird"),
    "cricket": ("cricket", "grasshopper"),
    "bug": ("caterpillar", "bug"),
    "bouquet": ("bouquet", "bunch of flowers"),
    "seedling": ("seedling", "sprout"),
    "evergreen tree": ("tree", "evergreen tree", "pine tree"),
    "deciduous tree": ("tree", "deciduous tree"),
    "palm tree": ("palm tree", "palm"),
    "ear of rice": ("wheat", "ear of rice"),
    "four leaf clover": ("clover", "four leaf clover"),
    "shamrock": ("clover", "shamrock"),
    "nest with eggs": ("nest", "bird nest"),
    "mushroom": ("mushroom", "toadstool"),
    "tangerine": ("orange", "tangerine"),
    "red apple": ("apple", "red apple"),
    "green apple": ("apple", "green apple"),
    "cherries": ("cherries", "cherry"),
    "blueberries": ("blueberries", "blueberry"),
    "kiwifruit": ("kiwi", "kiwifruit"),
    "aubergine": ("eggplant", "aubergine"),
    "ear of maize": ("corn", "maize"),
    "hot pepper": ("chili", "hot pepper", "chili pepper"),
    "bell pepper": ("bell pepper", "pepper"),
    "leafy green": ("lettuce", "cabbage"),
    "ginger root": ("ginger", "ginger root"),
    "pea pod": ("peas", "pea pod"),
    "bread": ("bread", "loaf of bread"),
    "baguette bread": ("baguette",),
    "cheese wedge": ("cheese", "cheese wedge"),
    "meat on bone": ("meat", "meat on bone"),
    "poultry leg": ("chicken leg", "drumstick"),
    "cut of meat": ("steak", "meat"),
    "hamburger": ("hamburger", "burger"),
    "french fries": ("french fries", "fries"),
    "slice of pizza": ("pizza", "slice of pizza"),
    "green salad": ("salad", "green salad"),
    "salt shaker": ("salt shaker", "salt"),
    "cooked rice": ("bowl of rice", "rice"),
    "curry and rice": ("curry", "curry and rice"),
    "steaming bowl": ("noodle soup", "ramen"),
    "spaghetti": ("spaghetti", "pasta"),
    "roasted sweet potato": ("sweet potato",),
    "fried shrimp": ("fried shrimp",),
    "soft ice cream": ("ice cream cone", "ice cream"),
    "doughnut": ("doughnut", "donut"),
    "cookie": ("cookie", "biscuit"),
    "birthday cake": ("cake", "birthday cake"),
    "shortcake": ("cake", "slice of cake"),
    "cupcake": ("cupcake", "muffin"),
    "chocolate bar": ("chocolate", "chocolate bar"),
    "candy": ("candy", "sweet"),
    "custard": ("pudding", "custard"),
    "honey pot": ("honey", "honey pot"),
    "glass of milk": ("milk", "glass of milk"),
    "hot beverage": ("coffee", "cup of coffee"),
    "teacup without handle": ("tea", "cup of tea"),
    "bottle with popping cork": ("champagne", "bottle"),
    "wine glass": ("wine", "glass of wine"),
    "cocktail glass": ("cocktail", "martini"),
    "tropical drink": ("tropical drink", "cocktail"),
    "beer mug": ("beer", "mug of beer"),
    "cup with straw": ("soda", "cup with straw"),
    "fork and knife": ("fork and knife", "cutlery"),
    "hocho": ("knife", "kitchen knife"),
    "amphora": ("vase", "amphora"),
    "snow capped mountain": ("mountain", "snowy mountain"),
    "house building": ("house", "home"),
    "office building": ("office building", "skyscraper"),
    "european castle": ("castle",),
    "steam locomotive": ("train", "steam locomotive"),
    "railway car": ("railway car", "wagon"),
    "high speed train": ("train", "high speed train"),
    "fire engine": ("fire truck", "fire engine"),
    "taxi": ("taxi", "cab"),
    "automobile": ("car", "automobile"),
    "pickup truck": ("truck", "pickup truck"),
    "delivery truck": ("truck", "delivery truck"),
    "racing car": ("racing car", "race car"),
    "motorcycle": ("motorcycle", "motorbike"),
    "motor scooter": ("motor scooter", "moped"),
    "bicycle": ("bicycle", "bike"),
    "sailboat": ("sailboat", "sailing boat"),
    "speedboat": ("speedboat", "motorboat"),
    "airplane": ("airplane", "plane"),
    "flying saucer": ("ufo", "flying saucer"),
    "luggage": ("suitcase", "luggage"),
    "jack o lantern": ("pumpkin", "jack o lantern"),
    "wrapped present": ("present", "gift"),
    "soccer ball": ("soccer ball", "football", "ball"),
    "basketball and hoop": ("basketball", "ball"),
    "volleyball": ("volleyball", "ball"),
    "american football": ("american football",),
    "tennis racquet and ball": ("tennis ball", "tennis racquet"),
    "table tennis paddle and ball": ("ping pong paddle", "table tennis paddle"),
    "eyeglasses": ("glasses", "eyeglasses"),
    "necktie": ("tie", "necktie"),
    "t shirt": ("shirt", "t shirt"),
    "jeans": ("jeans", "trousers"),
    "coat": ("coat", "jacket"),
    "handbag": ("handbag", "bag"),
    "school satchel": ("backpack", "school bag"),
    "athletic shoe": ("shoe", "sneaker"),
    "high heeled shoe": ("high heel", "shoe"),
    "womans hat": ("hat", "sun hat"),
    "billed cap": ("cap", "baseball cap"),
    "gem stone": ("diamond", "gem"),
    "headphone": ("headphones",),
    "television": ("television", "tv"),
    "electric light bulb": ("light bulb", "lamp"),
    "drum with drumsticks": ("drum",),
    "musical keyboard": ("piano", "keyboard"),
    "open book": ("book", "open book"),
    "closed book": ("book", "red book"),
    "dagger": ("dagger", "sword"),
    "nut and bolt": ("bolt", "nut and bolt"),
    "gear": ("gear", "cogwheel"),
    "bow and arrow": ("bow and arrow", "bow"),
    "moyai": ("stone statue", "moai"),
}


@dataclass(frozen=True)
class Thing:
    """A drawing's words: `names` say what it shows, `kinds` what sort of thing that is."""

    codepoint: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]


def things() -> list[Thing]:
    """The drawings the model learns, in the order of labels.tsv."""
    with open(HERE / "labels.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    chosen = []
    for row in rows:
        label, subcategory = row["label"], row["subcategory"]
        if label in EXTRA or (subcategory in KINDS and label not in LEFT_OUT):
            chosen.append(Thing(row["codepoint"], NAMES.get(label, (label,)), KINDS.get(subcategory, ())))
    return chosen


def templates() -> list[str]:
    """MaskCLIP's 85 prompt templates."""
    return (HERE / "templates.txt").read_text().splitlines()
