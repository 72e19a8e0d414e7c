"""Sections of a config: how they are made and read, and what is said of one that is wrong."""

import dataclasses
import re

import ml_collections
import pytest

from ebm_jax.data import Combinations
from ebm_jax.runs import settings
from ebm_jax.runs.settings import ConfigError
from ebm_jax.settings import setting


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Settings of chains."""

    num_steps: int = setting(3, "of a chain", at_least=1)


@dataclasses.dataclass(frozen=True)
class Ladder:
    """A method with a sampler."""

    width: int | None = setting(None, "or the data's", at_least=1)
    depth: float = setting(2.0, "of it", above=0)
    sampler: Sampler = Sampler()


KNOWN = {"ladder": Ladder, "sampler": Sampler}


def config_of(**fields):
    return ml_collections.ConfigDict(fields)


def refused(call, *given):
    """What is said, in one line."""
    with pytest.raises(ConfigError) as error:
        call(*given)
    return str(error.value)


def test_a_section_has_all_settings():
    """With other values where these are given; None is 0 in a config."""
    assert settings.to_config(Sampler).to_dict() == {"num_steps": 3}
    named = settings.named_config("ladder", KNOWN, depth=0.5)
    assert isinstance(named, ml_collections.ConfigDict)
    assert named.to_dict() == {"name": "ladder", "width": 0, "depth": 0.5}
    assert settings.sampler_config("ladder", KNOWN, num_steps=7).to_dict() == {"num_steps": 7}
    assert settings.sampler_settings(Ladder) is Sampler
    for call in (
        lambda: settings.to_config(Sampler, num_steps=0),
        lambda: settings.named_config("sampler", KNOWN, num_steps=0),
        lambda: settings.sampler_config("ladder", KNOWN, num_steps=0),
    ):
        with pytest.raises(ValueError, match=r"^num_steps: expected a whole number >= 1, got 0$"):
            call()


def test_a_section_is_read_and_checked():
    found = settings.read_section(config_of(chains={"num_steps": 5}), "chains", Sampler)
    assert found == Sampler(5)
    steps = ml_collections.FieldReference(4)
    by_reference = config_of(chains={"num_steps": steps})
    steps.set(9)
    assert settings.read_section(by_reference, "chains", Sampler) == Sampler(9)
    for fields, said in (
        ({"num_steps": 0}, "chains.num_steps: expected a whole number >= 1, got 0"),
        ({"steps": 1}, "chains.steps is no setting of Sampler; did you mean 'num_steps'?"),
    ):
        assert refused(settings.read_section, config_of(chains=fields), "chains", Sampler) == said
    said = refused(settings.read_section, config_of(), "chains", Sampler)
    assert said == "config has no section 'chains': start from configs/default.py"
    refused(settings.read_section, config_of(chains=3), "chains", Sampler)
    given = {"num_steps": 2}
    assert settings.plain(given) == given
    assert settings.plain(given) is not given


def test_fields_outside_of_sections():
    fields = {"seed": 7, "data_dir": "x", "chains": {"seed": -1}}
    assert settings.read_general(config_of(**fields)) == settings.General(seed=7, data_dir="x")
    said = refused(settings.read_general, config_of(seed=-1))
    assert said == "seed: expected a whole number >= 0, got -1"
    assert refused(settings.read_general, config_of(cpu_devices=1025)).endswith(
        "expected a whole number >= 1 and <= 1024, got 1025"
    )


def test_a_section_names_what_it_is_of():
    one = config_of(method={"name": "ladder", "width": 3})
    assert settings.groups(one, "method") == ("",)
    assert settings.read_named(one, "method", KNOWN) == (Ladder, {"width": 3})
    two = config_of(method={"b": {"name": "sampler"}, "a": {"name": "ladder", "depth": 1.0}})
    assert settings.groups(two, "method") == ("a", "b")
    assert settings.read_named(two, "method", KNOWN, "a") == (Ladder, {"depth": 1.0})
    assert two.method.a.name == "ladder"  # which reading leaves in it
    other = config_of(method={"name": "sampeler"}, parts={"a": {"name": 3}, "b": 1})
    assert refused(settings.read_named, other, "method", KNOWN) == (
        "method.name: expected one of ladder, sampler, got 'sampeler'; did you mean 'sampler'?"
    )
    said = refused(settings.read_named, other, "parts", KNOWN, "a")
    assert re.fullmatch(
        r"parts\.a\.name: expected one of ladder, sampler, got 3; did you mean '\w+'\?", said
    )
    assert refused(settings.groups, other, "parts") == (
        "parts.name: expected a name, or sections that have one; got none"
    )
    assert (settings.prefix("x"), settings.prefix("x", "y")) == ("x.", "x.y.")


def test_sections_that_there_have_to_be():
    known = {name: {} for name in (*settings.SECTIONS, "network", "method", "sampler", "optimizer")}
    general = {field.name: field.default for field in dataclasses.fields(settings.General)}
    whole = config_of(**known, **general, ood={})
    settings.check_names(whole, ["ood"])
    said = refused(settings.check_names, whole, ["oood"])
    assert said == "config has a section 'ood'; did you mean 'oood'?"
    said = refused(settings.check_names, config_of(q={}), ["ood"])  # like none of them
    assert said.startswith("config has a section 'q'; did you mean '")
    with whole.unlocked():
        del whole.seed
    said = refused(settings.check_names, whole, ["ood"])
    assert said == "config has no field 'seed': start from configs/default.py"
    whole.update(seed=1)
    with whole.ignore_type():
        whole.sampler = 3
    said = refused(settings.check_names, whole, ["ood"])
    assert said == "config.sampler: expected a section, got 3"


def test_combinations_that_are_seen():
    """Each of them in its place; without any, nothing may be said of them."""
    chosen = {"seen_places": 0.25, "reference_size": 0.75, "places_seed": 6}
    found = settings.Data(combinations="both", **chosen).seen_combinations
    assert found == Combinations(seen="both", share=0.25, reference_size=0.75, seed=6)
    assert settings.Data().seen_combinations is None
    for name, usual in (("seen_places", "0.1"), ("reference_size", "0.5"), ("places_seed", "0")):
        wrong = settings.Data(**{name: chosen[name]})
        with pytest.raises(ConfigError) as error:
            _ = wrong.seen_combinations
        assert str(error.value) == (
            f"data.{name}: expected {usual} without data.combinations, got {chosen[name]}"
        )


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, OSError, ImportError, OverflowError, FileNotFoundError]
)
def test_what_a_person_can_put_right_is_told_as_that(error):
    with pytest.raises(ConfigError, match=r"^as was$"), settings.one_line():
        raise error("as was")
    with (
        pytest.raises(ConfigError, match=r"^data.path: as was$"),
        settings.one_line("data.path"),
    ):
        raise error("as was")
    with pytest.raises(ConfigError, match=r"^told$"), settings.one_line("data.path"):
        raise ConfigError("told")
    with pytest.raises(KeyError), settings.one_line():
        raise KeyError("a fault of this code")
