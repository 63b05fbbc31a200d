"""What a job without a validation file promises: it scores examples that it never trains on, always the same ones."""

import pytest
from bitsmith_core.errors import InvalidFile
from bitsmith_core.ids import new_file_id
from bitsmith_core.spec import JobSpec, Record, held_out_count, hold_out, parse_record


def records(count: int, *, copies: int = 1) -> list[Record]:
    lines = [f'{{"prompt": "{n} + 1?", "completion": "{n + 1}"}}'.encode() for n in range(count)]
    return [parse_record(line) for line in lines for _ in range(copies)]


@pytest.mark.parametrize(
    ("examples", "expected"), [(16, 8), (160, 8), (240, 12), (1000, 50), (5120, 256), (1_000_000, 256)]
)
def test_one_in_twenty_is_held_out_within_bounds(examples: int, expected: int) -> None:
    assert held_out_count(examples) == expected


def test_every_example_is_on_one_side_in_the_order_of_the_file() -> None:
    whole = records(240)
    trained, held_out = hold_out(whole, seed=0)
    assert (len(trained), len(held_out)) == (228, 12)
    assert sorted([*trained, *held_out], key=whole.index) == whole
    for part in (trained, held_out):
        assert part == sorted(part, key=whole.index)


def test_the_seed_decides_which_and_nothing_else_does() -> None:
    first, again, other = (hold_out(records(240), seed=seed)[1] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    # Written down: scores of another release must be of the same examples.
    questions = [record.messages[0].content for record in hold_out(records(16), seed=7)[1]]
    assert questions == [f"{n} + 1?" for n in (0, 1, 4, 8, 9, 10, 13, 15)]


def test_equal_examples_are_never_on_both_sides() -> None:
    trained, held_out = hold_out(records(60, copies=3), seed=0)
    assert len(held_out) == 9  # three times three, the first number of whole threes that reaches one in twenty
    assert not {record.model_dump_json() for record in trained} & {record.model_dump_json() for record in held_out}


def test_too_few_examples_are_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidFile, match=r"needs 16 in it; there are 15: add examples, or give a validation_file"):
        hold_out(records(15), seed=0)
    with pytest.raises(InvalidFile, match=r"only 2 of the 200 examples differ.* give a validation_file"):
        hold_out(records(2, copies=100), seed=0)


def test_a_spec_knows_how_many_examples_are_trained_on() -> None:
    spec = JobSpec(model="hf:org/tiny", training_file=new_file_id())
    assert [spec.trained_examples(examples) for examples in (0, 16, 240)] == [0, 8, 228]
    with_file = spec.model_copy(update={"validation_file": new_file_id()})
    assert with_file.trained_examples(240) == 240
