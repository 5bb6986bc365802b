"""Creatures: breeds are told apart by their parts, and by no part alone."""

from itertools import combinations

from PIL import ImageChops

from minillava.toybox import anatomy, canvas, domain
from minillava.toybox.creatures import BREEDS, CREATURES, LOOKS, TOP_NAMES, WITHHELD, layers
from minillava.toybox.scene import COLORS


def test_any_two_parts_give_the_breed_and_no_part_does():
    for part in range(3):
        looks = [look[part] for look in LOOKS]
        assert sorted(looks.count(value) for value in set(looks)) == [2, 2]
    for a, b in combinations(range(3), 2):
        assert len({(look[a], look[b]) for look in LOOKS}) == len(LOOKS)
    names = [breed for breeds in BREEDS.values() for breed in breeds]
    assert len(set(names)) == 12 and {len(breeds) for breeds in BREEDS.values()} == {len(LOOKS)}


def test_each_part_can_be_seen():
    """Two breeds differ in at least two parts, each in at least 25 pixels by at least a tenth of white."""
    for kind, breeds in BREEDS.items():
        for color in COLORS:
            drawn = []
            for look in LOOKS:
                sheet = canvas.Image.new("RGB", (anatomy.WIDTH, anatomy.HEIGHT), (246, 246, 246))
                cut = anatomy.animal(kind, look, color, "right")
                sheet.paste(cut.image, (cut.left, cut.top), cut.image)
                drawn.append(sheet)
            for a, b in combinations(drawn, 2):
                changed = ImageChops.difference(a, b).convert("L").point(lambda v: 255 * (v > 25))
                assert changed.histogram()[255] > 50, (kind, color)
            assert len(drawn) == len(breeds)


def test_boxes_of_parts_hold_what_changes_without_them():
    for index in range(40):
        made = domain.specimen(CREATURES, "train", index)
        things = CREATURES.things(made)
        assert [thing.name for thing in things[2:]] == [TOP_NAMES[made.kind], "tail"]
        for number, thing in enumerate(things[2:]):
            look = tuple("" if i == number else value for i, value in enumerate(made.look))
            stack = layers(made)
            left, top = made.corner
            (where,) = (i for i, layer in enumerate(stack) if layer.thing == 0)
            stack[where] = anatomy.animal(made.kind, look, made.color, made.facing).at(left, top, 0)
            without = canvas.paint(made.background, made.texture, stack)
            assert ImageChops.difference(CREATURES.draw(made), without).getbbox() == thing.box, index


def test_animal_and_toy_do_not_touch_and_stand_on_their_sides():
    for index in range(200):
        made = domain.specimen(CREATURES, "train", index)
        animal, toy = (thing.box for thing in CREATURES.things(made)[:2])
        assert toy[2] <= animal[0] if made.toy_side == "left" else animal[2] <= toy[0]


def test_facing_is_mirrored_pixel_by_pixel():
    right, left = (anatomy.animal("cat", LOOKS[0], "red", side).image for side in ("right", "left"))
    assert canvas.ImageOps.mirror(right).tobytes() == left.tobytes()


def test_withheld_pairs_are_in_the_compositional_split_alone():
    for breeds in BREEDS.values():
        assert sorted(color for breed, color in WITHHELD if breed in breeds) == sorted(COLORS)
    for index in range(300):
        made = domain.specimen(CREATURES, "train", index)
        assert (made.breed, made.color) not in WITHHELD
        made = domain.specimen(CREATURES, "compositional", index)
        assert (made.breed, made.color) in WITHHELD


def test_answers_are_true():
    expected = {
        "kind": lambda c: (c.kind, {0}),
        "breed": lambda c: (c.breed, {0}),
        "animal_color": lambda c: (c.color, {0}),
        "toy": lambda c: (c.toy, {1}),
        "toy_color": lambda c: (c.toy_color, {1}),
        "coat": lambda c: (c.look[2], {0}),
        "facing": lambda c: (c.facing, {0}),
        "toy_side": lambda c: (c.toy_side, {0, 1}),
    }
    for split in ("train", "paraphrase"):
        for index in range(300):
            made = domain.specimen(CREATURES, split, index)
            things = CREATURES.things(made)
            asked = domain.questions(CREATURES, split, index)
            assert {q.type for q in asked} == set(CREATURES.types)
            for q in asked:
                if q.type == "part":
                    (thing,) = q.objects
                    number = 1 if thing.name == "tail" else 0
                    assert thing == things[2 + number] and thing.name in q.text
                    assert q.answer == made.look[number]
                    assert ("are" in q.text.lower().split()) == (thing.name == "ears")
                else:
                    answer, rests_on = expected[q.type](made)
                    assert (q.answer, q.objects) == (answer, tuple(things[i] for i in sorted(rests_on)))


def test_the_first_caption_says_all_that_can_be_asked():
    for index in range(50):
        made = domain.specimen(CREATURES, "train", index)
        dense, *others = CREATURES.captions(made)
        for word in (made.kind, made.breed, made.color, made.facing, made.toy, made.toy_color, *made.look):
            assert word in dense
        assert len(others) == 4 and all(len(text) < len(dense) for text in others)
