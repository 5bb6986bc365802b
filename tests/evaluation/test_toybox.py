"""The table of accuracies: its columns mean what they say, with models whose behavior is known."""

import json
from dataclasses import replace

import pytest

import minillava
from minillava.evaluation import evaluate, seeds
from minillava.evaluation.toybox import ask, held_out, obedience, scores
from minillava.images import open_image
from minillava.reproduce import last_turn, objects_f1
from minillava.toybox import language, records, store


@pytest.fixture(scope="module")
def questions():
    return store.evaluation("val", pictures=12)


class Knowing:
    """Answers rightly when shown the right picture, or told about it; otherwise says "yes"."""

    def __init__(self, table):
        self.pictures = {(row["image"]["bytes"], row["question"]): row["answer"] for row in table}
        self.told = {f"{row['captions'][0]}\n{row['question']}": row["answer"] for row in table}

    def answer_batch(self, images, questions, **_):
        pairs = zip(images, questions, strict=True)
        return [self.pictures.get((i, q)) or self.told.get(q) or "yes" for i, q in pairs]


def test_columns_differ_by_what_the_model_is_shown(questions):
    report = evaluate(Knowing(questions), questions, baselines=("blind", "shuffled", "oracle", "majority"))
    accuracy = {column: values["all"] for column, values in report.accuracy.items()}
    yes = sum(row["answer"] == "yes" for row in questions) / len(questions)
    assert accuracy["sighted"] == accuracy["oracle"] == 1
    assert accuracy["blind"] == pytest.approx(yes)
    assert accuracy["shuffled"] < 0.5
    assert report.accuracy["majority"]["exist"] >= 0.5


def test_two_processes_answer_as_one_does(questions):
    model, columns = minillava.load("tiny"), ("blind", "shuffled")
    alone = evaluate(model, questions, baselines=columns, limit=40, batch_size=8)
    shared = evaluate(model, questions, baselines=columns, limit=40, batch_size=8, processes=2)
    assert shared.predictions == alone.predictions and shared.accuracy == alone.accuracy


def test_a_prompt_that_comes_again_is_asked_once(questions):
    class Counting(Knowing):
        asked = []

        def answer_batch(self, images, questions, **_):
            self.asked += zip(images, questions, strict=True)
            return super().answer_batch(images, questions)

    once, model = dict.fromkeys((None, row["question"]) for row in questions), Counting(questions)
    assert len(ask(model, "blind", questions)) == len(questions) > len(once)
    assert sorted(map(str, model.asked)) == sorted(map(str, once))


def test_answers_are_compared_as_vqa_does(questions):
    class Loud(Knowing):
        def answer_batch(self, images, questions, **_):
            return [f"The {a.upper()}." for a in super().answer_batch(images, questions)]

    assert evaluate(Loud(questions), questions).accuracy["sighted"]["scenes"] == 1


def test_types_of_one_name_in_two_domains_have_a_row_each():
    """A domain from outside may call its types what it likes."""
    base = {"kind": "questions", "measure": "exact", "answer": "red", "type": "color"}
    rows = [base | {"domain": "scenes"}, base | {"domain": "mine"}]
    rows.append(rows[-1] | {"type": "gloss"})
    table = scores(rows, ["red", "blue", "red"])
    assert table["color (scenes)"] == [1] and table["color (mine)"] == [0] and table["gloss"] == [1]
    assert table["scenes"] == [1] and table["mine"] == [0, 1] and table["all"] == [1, 0, 1]


def test_a_sentence_where_a_word_was_asked_for_does_not_obey_the_format():
    base = {"kind": "questions", "measure": "exact", "domain": "scenes", "type": "place"}
    rows = [base | {"answer": "top-left"}, base | {"answer": "at the top"}, base | {"answer": "left"}]
    assert obedience(rows, ["at the left", "It is at the top", "left."]) == pytest.approx(1 / 3)
    assert obedience([row | {"kind": "reasoning"} for row in rows], ["", "", ""]) is None


def test_goals_stand_beside_what_was_found_and_are_said_to_be_missed(questions):
    report = evaluate(Knowing(questions), questions)
    assert "goal" not in report.to_markdown()  # of "test" alone
    shown = replace(report, split="test").to_markdown()
    assert "| scenes | " in shown and "| ≥ 90.0 |" in shown and "missed" not in shown
    assert "Of short answers, 100.0% obey the format: a word or phrase (goal: 99%)." in shown

    class Silent:
        def answer_batch(self, images, questions, **_):
            return [""] * len(questions)

    shown = replace(evaluate(Silent(), questions), split="test").to_markdown()
    assert "| ≥ 90.0 missed |" in shown and "| ≤ 0.20 missed |" in shown


def test_seeds_are_pooled_question_by_question(questions):
    """One that knows and one that says nothing: half of every row right, the goal beside it."""

    class Silent:
        def answer_batch(self, images, questions, **_):
            return [""] * len(questions)

    runs = [replace(evaluate(model, questions), split="test") for model in (Knowing(questions), Silent())]
    pooled = seeds.over_seeds(runs)
    assert set(pooled["shape"]) == {0.5} and len(pooled["all"]) == len(questions)
    lines = seeds.to_markdown(runs, {"alone": runs[1]}).splitlines()
    (row,) = [line for line in lines if line.startswith("| scenes |")]
    assert row == "| scenes | 50.0 | 50.0-50.0 | 100.0, 0.0 | ≥ 90.0 | 0.0 |"
    with pytest.raises(ValueError, match="asked different questions"):
        seeds.over_seeds([runs[0], evaluate(Silent(), questions, limit=3)])


def test_types_and_limit_choose_questions(questions):
    report = evaluate(Knowing(questions), questions, types=["color", "count"], limit=5)
    asked = {title.split(":")[0] for title in report.counts}
    assert asked <= {"all", "scenes", "color", "count"} and report.counts["all"] == 5


def test_answers_given_make_a_column(questions):
    model = Knowing(questions)
    told = ask(model, "oracle", questions, limit=7)
    report = evaluate(model, questions, limit=7, given={"oracle": told})
    assert list(report.accuracy) == ["sighted", "oracle"] and report.accuracy["oracle"]["all"] == 1
    with pytest.raises(ValueError, match="7 answers are given for oracle, but 6"):
        evaluate(model, questions, limit=6, given={"oracle": told})


def test_what_is_unknown_is_named_with_the_choice(questions):
    with pytest.raises(ValueError, match="smell.*Types are "):
        evaluate(None, questions, types=["smell"])
    with pytest.raises(ValueError, match="at least 1, not 0"):
        evaluate(None, questions, limit=0)
    with pytest.raises(ValueError, match="no split 'dev'"):
        evaluate(None, "dev")


def test_a_report_is_a_table_and_files(questions, tmp_path):
    report = evaluate(Knowing(questions), questions, baselines=("blind",))
    assert "| all | " in report.to_markdown() and "100.0 [100.0, 100.0]" in report.to_markdown()
    files = report.save(tmp_path)
    assert json.loads(files[0].read_text())["accuracy"]["sighted"]["all"] == 1
    rows = [json.loads(line) for line in files[2].read_text().splitlines()]
    assert [row["id"] for row in rows] == questions["id"]


def test_the_shipped_questions_are_what_the_generator_makes():
    """The frozen set: over 1,000 questions, and the first ones are today's generator's, to the pixel."""
    shipped = held_out("test")
    assert len(shipped) >= 1000
    for row, made in zip(shipped, records.evaluation_records("test", 3), strict=False):
        names = "question", "answer", "boxes"
        assert [row[name] for name in names] == [made[name] for name in names]
        pixels = [open_image(r["image"]["bytes"]).tobytes() for r in (row, made)]
        assert pixels[0] == pixels[1]


def test_the_shipped_questions_are_read_without_a_cache_or_a_progress_bar(tmp_path, monkeypatch, capfd):
    """A notebook's output must be the same on a machine that reads them for the first time."""
    monkeypatch.setenv("MINILLAVA_CACHE", str(tmp_path / "cache"))
    assert held_out("test").features == store.EVALUATION_FEATURES
    assert not (tmp_path / "cache").exists()
    assert capfd.readouterr() == ("", "")


def test_caption_f1_counts_whole_objects():
    scene = next(s for s in (records.scene("val", i) for i in range(50)) if len(s.objects) == 3)
    caption = language.caption(scene)
    assert objects_f1(caption, scene) == 1
    first, rest = caption.split(", ", 1)
    assert objects_f1(rest, scene) == pytest.approx(2 * 2 / (2 + 3))
    assert objects_f1(f"{caption[:-1]}, {first}.", scene) == pytest.approx(2 * 3 / (4 + 3))
    assert objects_f1("nothing to see", scene) == 0


def test_a_page_of_answers_shows_what_was_asked_at_last():
    assert last_turn("What color is it?\nAnswer with a word.") == "What color is it?"
    assert last_turn("What is it? ASSISTANT: a cat</s>USER: Where is it?") == "Where is it?"
    assert last_turn("Which?\nA. red\nB. blue\nAnswer with the letter.") == "Which? A. red B. blue"
    assert last_turn("Which?\nContext: N/A\nOptions: (A) up (B) down") == "Which? Options: (A) up (B) down"
