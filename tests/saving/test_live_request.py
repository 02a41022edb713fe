"""The words that people write for a live save, and what they stand for."""

import click
import pytest

from vmckpt.cli.save import command
from vmckpt.errors import UsageError
from vmckpt.saving.estimators import ESTIMATORS
from vmckpt.saving.live_request import TRACERS, LiveRequest, live_request
from vmckpt.saving.rounds import StopRule
from vmckpt.trace.rules import Mode, Rule

WORDS = {
    "mode": ["checkpoint", "suspend"],
    "trace": ["access", "write", "working-set", "off"],
    "tracer": list(TRACERS),
    "estimator": list(ESTIMATORS),
}


def asked(**words: str | None) -> LiveRequest:
    return live_request(words.get("mode"), words.get("trace"), words.get("tracer"), words.get("estimator"))


def test_nothing_written_is_a_checkpoint_traced_by_access() -> None:
    assert asked() == LiveRequest(Mode.CHECKPOINT, Rule.ACCESS, "auto", "tracing", StopRule())


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("rule", [*Rule, None], ids=lambda rule: rule.value if rule else "off")
@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_word_stands_for_itself(mode: Mode, rule: Rule | None, tracer: str, estimator: str) -> None:
    trace = "off" if rule is None else rule.value
    found = asked(mode=mode.value, trace=trace, tracer=tracer, estimator=estimator)
    assert found == LiveRequest(mode, rule, tracer, estimator)


@pytest.mark.parametrize("what", WORDS)
@pytest.mark.parametrize("word", ["sideways", "Access", " ", "None"])
def test_another_word_is_refused_with_those_there_are(what: str, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(**{what: word})
    assert caught.value.message == f"there is no {what} {word!r}: expected one of {', '.join(WORDS[what])}"


@pytest.mark.parametrize("what", WORDS)
def test_the_command_offers_the_same_words(what: str) -> None:
    [option] = [each for each in command.params if each.name == what]
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == WORDS[what]
    for word in WORDS[what]:
        asked(**{what: word})
