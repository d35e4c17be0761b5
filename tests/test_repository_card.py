"""Which card stays: never one of other weights, and never is a person's work thrown away."""

import pytest

from handmim.publishing import _card_stays
from handmim.repository_card import PublishError, card_stays, signature, signed, stale_patterns, weights_fingerprint

CARD = "---\nlicense: {}\ntags:\n- hand\n- trained-on-freihand\n---\n\n# Hands\n\n13.5 mm\n"
A, B = (weights_fingerprint({"model.safetensors": letter * 64, "README.md": ""}) for letter in "ab")


def card(weights: str, licence: str = "mit") -> str:
    return signed(CARD.format(licence), weights)


def stays(there: str, new: str, *told: str, weights_there: str = A) -> bool:
    return card_stays(there, new, told=told, weights_there=weights_there)


def test_fingerprints_are_of_weights_and_of_nothing_else() -> None:
    assert A != B and weights_fingerprint({"README.md": "1", "open_hand.safetensors": "2"}) == "none"
    shards = {"model-00001-of-00002.safetensors": "1", "model-00002-of-00002.safetensors": "2"}
    assert weights_fingerprint(shards) == weights_fingerprint(dict(reversed(shards.items())) | {"x.json": ""})


def test_a_card_knows_whether_it_was_edited() -> None:
    text = card(A)
    assert signature(text) == (A, True) and signature(text.replace("\n", "\r\n")) == (A, True)
    assert signature(text.replace("13.5", "1.35")) == (A, False)
    assert signature(text + "More of mine.\n") == (None, False) == signature("# mine")
    assert signed(CARD.format("mit"), A) == signed(CARD.format("mit") + "\n\n", A)


def test_an_untouched_card_stays_on_its_weights_and_goes_with_them() -> None:
    assert stays(card(A), card(A)) and stays(card(A), card(A), "licence", "datasets")
    assert not stays(card(A), card(B))
    assert not stays(card(A, "mit"), card(A, "apache-2.0"), "licence")
    assert not stays(card(A), card(A), "reports") and not stays(card(A), card(A), "notes")


@pytest.mark.parametrize("mine", ["# mine", card(A).replace("13.5", "1.35")])
def test_an_edited_card_stays_on_its_weights_and_on_no_others(mine: str) -> None:
    assert stays(mine, card(A, ""))
    with pytest.raises(PublishError, match=r"by hand and belongs to other weights.*--notes.*--report.*README.md"):
        stays(mine, card(B, ""), weights_there=A)
    assert not stays(mine, card(B), "notes")


def test_an_edited_card_that_says_something_else_than_the_user_is_not_left_in_silence() -> None:
    mine = card(A).replace("13.5", "1.35")
    assert stays(mine, card(A), "licence", "datasets")
    with pytest.raises(PublishError, match="says another licence than you"):
        stays(mine, card(A, "apache-2.0"))
    with pytest.raises(PublishError, match="says another datasets than you"):
        stays(mine.replace("on-freihand", "on-rhd"), card(A), "datasets")
    assert stays("---\n- no\n- mapping\n---\n# mine", card(A, "")) and stays("---\na: [\n---\n", card(A, ""))


def test_a_card_that_was_there_before_all_weights_stays() -> None:
    assert stays("# mine", card(B, ""), weights_there="none")


def test_a_licence_goes_with_the_card_that_states_it() -> None:
    assert "LICENSE*" not in stale_patterns(card(A, "mit"), card(B, "mit"))
    assert "LICENSE*" in stale_patterns(card(A, "mit"), card(B, "apache-2.0"))
    assert "LICENSE*" in stale_patterns(None, card(B))


def test_a_run_goes_on_over_an_edited_card() -> None:
    with pytest.warns(UserWarning, match="belongs to other weights.*the card stays"):
        assert _card_stays("# mine", card(B), {"model.safetensors": "a" * 64}, (), in_training=True)
