"""Domains: deterministic, exact boxes, splits that share nothing, no answer free, and no list of them."""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import pytest
from PIL import Image, ImageChops

from minillava.evaluation.metrics import choice_index, normalise_answer
from minillava.toybox import canvas, creatures, domain, lessons, mix, signs, sketch, store
from minillava.toybox.domain import CHOICE, SHORT_ANSWER, Domain, Question, Thing
from minillava.toybox.scene import COLORS, SIZE
from minillava.toybox.scenes import SCENES
from minillava.toybox.sketch import SKETCH

MODULES = {
    signs.SIGNS: signs,
    creatures.CREATURES: creatures,
    lessons.LESSONS: lessons,
    sketch.SKETCH: sketch,
}
DOMAINS = list(MODULES)

every_domain = pytest.mark.parametrize("one", DOMAINS, ids=lambda one: one.name)


@every_domain
def test_an_item_is_the_same_whatever_was_asked_for_before(one):
    alone = domain.specimen(one, "train", 7, seed=3)
    pixels = one.draw(alone).tobytes()
    for i in (0, 9):
        one.draw(domain.specimen(one, "train", i, seed=3))
    again = domain.specimen(one, "train", 7, seed=3)
    assert again == alone and hash(again) == hash(alone)
    assert one.draw(again).tobytes() == pixels
    assert domain.questions(one, "train", 7, seed=3) == domain.questions(one, "train", 7, seed=3)
    assert domain.specimen(one, "train", 7, seed=4) != alone


@every_domain
def test_pictures_have_the_size_of_all_others_and_do_not_repeat(one):
    seen = [one.draw(domain.specimen(one, "train", i)) for i in range(100)]
    assert {(p.mode, p.size) for p in seen} == {("RGB", (SIZE, SIZE))}
    assert len({p.tobytes() for p in seen}) == 100


@every_domain
def test_boxes_hold_exactly_the_pixels_of_their_thing(one):
    for split in domain.splits(one):
        for index in range(15):
            made = domain.specimen(one, split, index)
            stack = MODULES[one].layers(made)
            whole = one.draw(made)
            assert all(layer.thing is None or layer.image.getbbox() for layer in stack)
            for number in sorted({layer.thing for layer in stack} - {None}):
                rest = [layer for layer in stack if layer.thing != number]
                without = canvas.paint(made.background, made.texture, rest)
                changed = ImageChops.difference(whole, without).getbbox()
                assert changed == one.things(made)[number].box, (split, index, number)


@every_domain
def test_things_stand_inside_the_picture_and_are_named(one):
    for split in domain.splits(one):
        for index in range(60):
            made = domain.specimen(one, split, index)
            for thing in one.things(made):
                x1, y1, x2, y2 = thing.box
                assert 0 <= x1 < x2 <= SIZE and 0 <= y1 < y2 <= SIZE, (split, index, thing)
            told = domain.instances(one, made)
            assert [row["category"] for row in told] == [thing.name for thing in one.things(made)]
            assert all(set(row) == {"category", "bbox"} and len(row["bbox"]) == 4 for row in told)
            assert all(0 <= value <= 1 for row in told for value in row["bbox"])


@every_domain
def test_no_key_is_in_two_splits(one):
    names = [split for split in domain.splits(one) if split != "paraphrase"]
    keys = {split: {one.key(domain.specimen(one, split, i)) for i in range(200)} for split in names}
    for i, a in enumerate(names):
        for b in names[:i]:
            assert not keys[a] & keys[b], (a, b)


@every_domain
def test_keys_are_blind_to_the_ground(one):
    for index in range(20):
        made = domain.specimen(one, "train", index)
        other = replace(made, background=(255, 255, 255), texture=made.texture + 1)
        assert one.key(other) == one.key(made) and one.captions(other) == one.captions(made)
        assert one.draw(other).tobytes() != one.draw(made).tobytes()


@every_domain
def test_a_split_that_is_not_there_is_named_with_the_choice(one):
    with pytest.raises(ValueError, match=f"{one.name} has no split 'dev'.*train"):
        domain.specimen(one, "dev", 0)


@pytest.fixture(scope="module")
def sample():
    """At least 5,000 questions of each domain, 20,000 in all."""
    found = []
    for one in DOMAINS:
        asked, index = [], 0
        while len(asked) < 5000:
            asked += domain.questions(one, "train", index)
            index += 1
        found += asked
    return found


def most(counts: Counter, answers: int) -> float:
    """By how much the commonest of so many answers is above its even share, less what chance does."""
    share = max(counts.values()) / counts.total()
    return share - 1 / answers - 3 * (share * (1 - share) / counts.total()) ** 0.5


def test_answers_are_balanced_within_each_question_text(sample):
    """The commonest answer's share stays within 2 points of 1/K, and what chance adds at that number."""
    assert len(sample) >= 20000
    groups = defaultdict(Counter)
    for question in sample:
        groups[question.text][question.answer] += 1
    large = {text: counts for text, counts in groups.items() if counts.total() >= 100}
    assert len(large) >= 50
    for text, counts in large.items():
        assert len(counts) > 1 and most(counts, len(counts)) <= 0.02, (text, counts)


def test_letters_are_balanced_within_each_number_of_options(sample):
    groups = defaultdict(Counter)
    for question in sample:
        if question.options:
            groups[question.type, len(question.options)][question.options.index(question.answer)] += 1
    assert {number for _, number in groups} == {2, 3, 4}
    for (kind, number), counts in groups.items():
        assert most(counts, number) <= 0.01, (kind, number, counts)


def test_answers_are_balanced_within_each_type(sample):
    """Types whose questions have the same answers, whatever they ask about."""
    groups = defaultdict(Counter)
    for question in sample:
        groups[question.type][question.answer] += 1
    even = {kind for one in (signs.SIGNS, creatures.CREATURES, sketch.SKETCH) for kind in one.types}
    for kind in even - {"part", "sign", "sketch"}:
        assert most(groups[kind], len(groups[kind])) <= 0.02, (kind, groups[kind])
    assert len(groups["sign_exist"]) == 2 and len(groups["breed"]) == 12


def test_questions_say_all_they_should(sample):
    types = {one.name: set(one.types) for one in DOMAINS}
    assert len(set.union(*types.values())) == sum(map(len, types.values()))
    assert {question.type for question in sample} == set.union(*types.values())
    for question in sample:
        assert question.text[0].isupper() and question.text[-1] in "?."
        assert normalise_answer(question.answer)
        for x1, y1, x2, y2 in (thing.box for thing in question.objects):
            assert 0 <= x1 < x2 <= SIZE and 0 <= y1 < y2 <= SIZE
        if question.options:
            assert len(set(question.options)) == len(question.options) >= 2
            assert question.options.count(question.answer) == 1
            assert choice_index(question.gpt(), 5) == question.options.index(question.answer)


@every_domain
def test_held_out_wordings_are_in_no_training_question(one):
    trained = {q.text for i in range(400) for q in domain.questions(one, "train", i)}
    assert not trained & {q.text for i in range(100) for q in domain.questions(one, "paraphrase", i)}


def test_under_rotation_the_letter_visits_every_option():
    asked = Question("q", "Which?", "b", (), prompt=CHOICE, options=("a", "b", "c"))
    assert asked.human() == f"Which?\nA. a\nB. b\nC. c\n{CHOICE}"
    turned = asked.rotations()
    assert [q.gpt() for q in turned] == ["B", "A", "C"]
    assert {frozenset(q.options) for q in turned} == {frozenset("abc")}
    plain = Question("q", "Which?", "b", ())
    assert plain.rotations() == (plain,)


def test_an_explained_choice_has_the_form_of_scienceqa():
    asked = Question("q", "Which?", "b", (), prompt="", options=("a", "b"), because="So it is. I see b.")
    assert asked.human() == "Which?\nContext: N/A\nOptions: (A) a (B) b"
    assert asked.gpt() == "So it is. I see b. The answer is B."


def test_a_format_prompt_stands_where_the_format_changes():
    short, choice = (
        Question("s", "How many?", "2", ()),
        Question("c", "Which?", "b", (), (), CHOICE, ("a", "b")),
    )
    told = domain.pairs([short, short, choice, choice, short])
    prompts = [SHORT_ANSWER, None, CHOICE, None, SHORT_ANSWER]
    for (human, _), prompt in zip(told, prompts, strict=True):
        assert human.endswith(prompt) if prompt else "Answer" not in human
    assert [gpt for _, gpt in told] == ["2", "2", "B", "B", "2"]


# --- A domain from outside ---------------------------------------------------------------------


@dataclass(frozen=True)
class Flag:
    left: str
    right: str


def flags(*colors: str) -> Domain[Flag]:
    paints = {color: COLORS[color] for color in colors}

    def paint(flag):
        picture = Image.new("RGB", (SIZE, SIZE), paints[flag.left])
        picture.paste(paints[flag.right], (SIZE // 2, 0, SIZE, SIZE))
        return picture

    def things(flag):
        return (
            Thing(f"{flag.left} half", (0, 0, SIZE // 2, SIZE)),
            Thing(f"{flag.right} half", (SIZE // 2, 0, SIZE, SIZE)),
        )

    def ask(flag, rng, held_out):
        text = "The left half has which color?" if held_out else "What color is the left half?"
        return [Question("left", text, flag.left, things(flag)[:1])]

    return Domain(
        name="flags",
        samplers={"train": lambda rng: Flag(*rng.sample(tuple(paints), 2))},
        key=lambda flag: domain.digest(f"{flag.left} {flag.right}"),
        draw=paint,
        captions=lambda flag: [f"A flag, {flag.left} and {flag.right}."],
        things=things,
        questions=ask,
        types=("left",),
    )


def test_a_domain_from_outside_is_used_like_those_inside():
    one = flags(*COLORS)
    trained = {one.key(domain.specimen(one, "train", i)) for i in range(100)}
    assert not trained & {one.key(domain.specimen(one, "val", i)) for i in range(20)}
    made = domain.specimen(one, "train", 3)
    assert domain.instances(one, made)[0]["bbox"] == [0, 0, 0.5, 1]
    (asked,) = domain.questions(one, "train", 3)
    assert domain.pairs([asked]) == [(f"What color is the left half?\n{SHORT_ANSWER}", made.left)]
    assert one.draw(made).getpixel((1, 1)) != one.draw(made).getpixel((90, 1))


def test_a_domain_with_too_few_pictures_says_so():
    with pytest.raises(ValueError, match="flags gave nothing for the split"):
        for split in ("train", "val", "test"):
            domain.specimen(flags("red", "blue"), split, 0)


def test_scenes_are_a_domain_like_the_others():
    made = domain.specimen(SCENES, "train", 0)
    assert domain.instances(SCENES, made) == made.instances()
    asked = domain.questions(SCENES, "paraphrase", 0)
    assert asked and all(q.human().endswith(SHORT_ANSWER) for q in asked)
    assert SCENES.draw(made).size == (SIZE, SIZE)


def test_a_thing_of_several_layers_has_one_box_around_them():
    sheet = canvas.Sheet(20, 20)
    sheet.bar(2, 3, 10, 8, 0, canvas.INK)
    stack = [sheet.cut().at(0, 0, 0), sheet.cut().at(30, 10, 0), sheet.cut().at(5, 5)]
    assert canvas.boxes(stack) == [(2, 3, 40, 18)]


def test_ground_and_shadow_belong_to_nothing():
    rng = random.Random(0)
    for one in DOMAINS:
        made = one.samplers["train"](rng)
        loose = [layer for layer in MODULES[one].layers(made) if layer.thing is None]
        assert loose, one.name


def test_a_domain_of_no_file_is_drawn_anew_each_time(tmp_path, monkeypatch):
    """One typed in a notebook: nobody knows whether it has changed since."""
    monkeypatch.setenv("MINILLAVA_CACHE", str(tmp_path))
    code = compile("def questions(*given): return asked(*given)", "<stdin>", "exec")
    for word in ("first", "second"):
        typed = {"asked": lambda *one, word=word: [replace(q, answer=word) for q in SKETCH.questions(*one)]}
        exec(code, typed)
        share = mix.Share(replace(SKETCH, questions=typed["questions"]), "questions", 1)
        row = store.instructions("train", 2, table=(share,))[0]
        assert {turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"} == {word}
