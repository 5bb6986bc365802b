"""How fast Toybox draws, on one core: `python benchmarks/rendering.py`. The goal is 500 pictures a second."""

import time

from minillava.toybox import domain, records
from minillava.toybox.creatures import CREATURES
from minillava.toybox.draw import draw
from minillava.toybox.lessons import LESSONS
from minillava.toybox.signs import SIGNS
from minillava.toybox.sketch import SKETCH

PICTURES = 3000


def main() -> None:
    scenes = [records.scene("train", index) for index in range(PICTURES)]
    draw(scenes[0])
    started = time.process_time()
    for scene in scenes:
        draw(scene)
    drawn = time.process_time() - started
    started = time.process_time()
    for index in range(PICTURES):
        records.instruction_record("train", index)
    made = time.process_time() - started
    print(f"drawing            {PICTURES / drawn:7.0f} pictures/s")
    print(f"whole records      {PICTURES / made:7.0f} records/s (scene, PNG, questions)")
    for one in (SIGNS, CREATURES, LESSONS, SKETCH):
        specimens = [domain.specimen(one, "train", index) for index in range(PICTURES)]
        started = time.process_time()
        for specimen in specimens:
            one.draw(specimen)
        drawn = time.process_time() - started
        print(f"{one.name:<18} {PICTURES / drawn:7.0f} pictures/s")


if __name__ == "__main__":
    main()
