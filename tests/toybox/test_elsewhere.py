"""Pictures from elsewhere: unlike Toybox's, and all questions about them have one reply."""

import numpy as np

from minillava.toybox import domain, records
from minillava.toybox.elsewhere import ELSEWHERE, REPLY
from minillava.toybox.scene import SIZE
from minillava.toybox.scenes import SCENES


def test_whatever_is_asked_the_reply_is_that_only_toybox_is_known():
    texts = set()
    for index in range(40):
        asked = domain.questions(ELSEWHERE, "train", index)
        assert {question.gpt() for question in asked} == {REPLY} and len(asked) == 3
        texts |= {question.human() for question in asked}
    assert len(texts) > 40  # what other pictures are asked, formats and options too
    assert any("single word" in text for text in texts) and any("\nA. " in text for text in texts)


def test_a_training_record_shows_the_picture_and_declines():
    made = records.record(ELSEWHERE, "questions", "train", 3)
    assert made["image"] and {turn["value"] for turn in made["conversations"][1::2]} == {REPLY}


def test_pictures_are_the_same_again_and_have_no_flat_ground():
    for index in range(20):
        made = domain.specimen(ELSEWHERE, "train", index)
        picture = ELSEWHERE.draw(made)
        assert picture.size == (SIZE, SIZE) and picture.mode == "RGB"
        assert picture.tobytes() == ELSEWHERE.draw(made).tobytes()
        assert commonest(picture) < 0.1
    assert commonest(SCENES.draw(records.scene("train", 0))) > 0.1


def commonest(picture) -> float:
    """Share of the commonest color, to 32 steps a channel."""
    pixels = np.asarray(picture).reshape(-1, 3) // 8
    return np.unique(pixels, axis=0, return_counts=True)[1].max() / len(pixels)


def test_its_hash_decides_which_split_may_show_a_picture():
    for split, tenths in domain.HASHED.items():
        for index in range(60):
            made = domain.specimen(ELSEWHERE, split, index)
            assert int(ELSEWHERE.key(made), 16) % 10 in tenths
