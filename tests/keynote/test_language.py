"""The language of RFC 2704, construct by construct."""

from __future__ import annotations

import pytest

from polder.keynote import Checker, KeyNoteError, Limits, Why, parse, quote, split_assertions
from polder.keynote.text import string

VALUES = ("no", "low", "high", "yes")


def value(conditions: str, values: tuple[str, ...] = ("false", "true"), constants: str = "", **attributes: str) -> str:
    """What a policy with these conditions says."""
    text = f'Local-Constants: {constants}\nAuthorizer: "POLICY"\nLicensees: "me"\nConditions: {conditions}\n'
    return Checker().query([parse(text)], [], ["me"], attributes, values).value


@pytest.mark.parametrize(
    "test",
    [
        'foo == "bar"',
        '$("foo") == "bar"',
        '$foo == "xyz"',
        '$(foo) == "xyz"',
        '$$foo == "qua"',
        'foo . "x" == "barx"',
        '(foo . "x") . "y" == "barxy"',
        '$("f" . "oo") == "bar"',
        'nobody == ""',
        "@nobody == 0",
        "&nobody <= 0.0",
        '$nobody == ""',
        '"b" > "a" && "a" < "b" && "a" <= "a" && "a" >= "a" && "a" != "b"',
        '"A" != "a"',
        "@num == 12 && @num > 11 && @num < 13 && @num <= 12 && @num >= 12 && @num != 13",
        "@frac == 1 && @minus == -2 && @text == 0",
        "2 + 3 * 4 == 14",
        "(2 + 3) * 4 == 20",
        "10 - 3 - 2 == 5",
        "2 ^ 3 ^ 2 == 64",
        "-2 ^ 2 == 4",
        "7 / 2 == 3 && -7 / 2 == -3 && 7 % 3 == 1 && -7 % 3 == -1",
        "2 * @num + 1 == 25",
        "- - 3 == 3",
        "&frac > 1.6 && &frac < 1.8",
        "&frac >= 1.7 && &frac <= 1.7",
        "&frac * 2.0 ^ 2.0 - 0.5 / 1.0 > 6.2",
        "-&frac < 0.0",
        "true && !false",
        "TRUE && !False",
        'true == ""',
        "false || 1 == 1",
        'foo == "no" && foo == "no" || foo == "bar"',
        "!(1 == 2 && 1 == 1)",
        'address ~= "^[a-z]+@(([a-z]+\\\\.)+)nl$" && _0 == "2" && _1 == "polder.test." && _2 == "test."',
        '"abc" ~= "b"',
        '!("abc" ~= "^b")',
        '"a\\tb\\101\\n" == "a\tb" . "A" . "\\012"',
        '_MIN_TRUST == "false" && _MAX_TRUST == "true" && _VALUES == "false,true" && _ACTION_AUTHORIZERS == "me"',
    ],
)
def test_true_tests(test: str) -> None:
    """Each holds, and its negation does not."""
    given = {
        "foo": "bar",
        "bar": "xyz",
        "xyz": "qua",
        "num": "12",
        "frac": "1.7",
        "minus": "-1.5",
        "text": "12a",
        "address": "me@polder.test.nl",
    }
    assert value(f"{test};", **given) == "true"
    assert value(f"!({test});", **given) == "false"


@pytest.mark.parametrize(
    "test",
    [
        "@a == 1/0",
        "1 % 0 == 0",
        "1.0 / 0.0 > 0.0",
        "2147483647 + 1 > 0",
        "2 ^ 31 > 0",
        "2 ^ -1 == 0",
        "(-1.0) ^ 0.5 < 1.0",
        "10.0 ^ 39.0 > 1.0",
        '"a" ~= "("',
        '"a" ~= "[z-a]"',
        '"a" ~= "*a"',
        '"a" ~= "a{2,1}"',
        '"a" ~= "[[:nothing:]]"',
        '"a" ~= "a\\\\"',
    ],
)
def test_runtime_errors_make_the_test_false(test: str) -> None:
    """And its negation too; other clauses are not touched (§5.3.4)."""
    assert value(f"{test};") == "false"
    assert value(f"!({test});") == "false"
    assert value(f"{test}; true;") == "true"


def test_clauses() -> None:
    """The most of all clauses that hold; nested ones as if their parent's test stood before each; unknown values are the least."""
    assert value('true -> "low"; true -> "high"; false -> "yes";', VALUES) == "high"
    assert value('a == "b" -> { b == "c" -> "low"; d == "e" -> "high"; true -> "no"; };', VALUES, a="b", d="e") == "high"
    assert value('a == "b" -> { true -> "high"; };', VALUES) == "no"
    assert value('true -> "sideways";', VALUES) == "no"
    assert value("true;", VALUES) == "yes"
    assert value('true -> $("_MAX" . "_TRUST");', VALUES) == "yes"
    assert value("", VALUES) == "no"


def test_groups_live_in_their_clause() -> None:
    """Blocks inside see them, the next clause does not, and a match in one block is unknown to its neighbour (§5.3.4)."""
    assert value('"ab" ~= "a(.)" -> { _1 == "b" -> "true"; };') == "true"
    assert value('"ab" ~= "a(.)" -> "false"; _1 == "b" -> "true";') == "false"
    assert value('"ab" ~= "a(.)" -> { "cd" ~= "c(.)" -> "false"; _1 == "b" -> "true"; };') == "true"
    assert value('"ab" ~= "a(.)" -> _1;', ("a", "b")) == "b"
    assert value('"ab" ~= "a(.)" && !("b" ~= "c") && _1 == "";') == "true"


def test_example_of_the_rfc_on_user_ids() -> None:
    """§5.3.4."""
    text = """@user_id == 0 -> "full_access";             # clause (1)
              @user_id < 1000 -> "user_access";           # clause (2)
              @user_id < 10000 -> "guest_access";         # clause (3)
              user_name == "root" -> "full_access";       # clause (4)"""
    values = ("no_access", "guest_access", "user_access", "full_access")
    assert value(text, values, user_id="1073", user_name="root") == "full_access"
    assert value(text, values, user_id="19283", user_name="nobody") == "no_access"
    assert value(text, values, user_id="1073") == "guest_access"


def test_constants_hide_attributes() -> None:
    """§4.6.2."""
    assert value('x == "own";', constants='x = "own"', x="given") == "true"


def test_absent_and_empty_fields() -> None:
    """§5.3.4, §5.3.5: absent is the most, empty the least."""
    for fields, expected in {
        'Licensees: "me"': "true",
        'Licensees: "me"\nConditions:': "false",
        "Conditions: true;": "true",
        "Licensees:\nConditions: true;": "false",
        "Comment: nothing else": "true",
    }.items():
        assert Checker().query([f'Authorizer: "POLICY"\n{fields}\n'], [], ["me"], {}).value == expected, fields


@pytest.mark.parametrize(
    ("licensees", "asking", "expected"),
    [
        ('"a" && "b"', "a", False),
        ('"a" && "b"', "ab", True),
        ('"a" || "b" && "c"', "a", True),
        ('("a" || "b") && "c"', "a", False),
        ('2-of("a", "b", "c")', "ac", True),
        ('2-of("a", "b", "c")', "c", False),
        ('"x" || 2-of("a", "b")', "ab", True),
        ('("a" . "") && who', "ab", True),
        ("$ref", "b", True),
    ],
)
def test_licensees(licensees: str, asking: str, expected: bool) -> None:
    """§4.6.4, with names that come of constants, and of the action's attributes."""
    text = f'Local-Constants: who = "b" ref = "who"\nAuthorizer: "POLICY"\nLicensees: {licensees}\n'
    assert Checker().query([text], [], list(asking), {}).passed is expected
    dynamic = 'Authorizer: "POLICY"\nLicensees: chosen\n'
    assert Checker().query([dynamic], [], list(asking), {"chosen": "a"}).passed is ("a" in asking)


def test_thresholds_take_the_kth_highest() -> None:
    """§5.3.5, with multiplicity."""
    chain = [f'Authorizer: "p{n}"\nLicensees: "me"\nConditions: true -> "{level}";\n' for n, level in enumerate(VALUES)]
    for least, expected in ((1, "yes"), (2, "high"), (3, "low"), (4, "no")):
        names = ", ".join(f'"p{n}"' for n in range(4))
        policy = f'Authorizer: "POLICY"\nLicensees: {least}-of({names})\n'
        assert Checker().query([policy, *chain], [], ["me"], {}, VALUES).value == expected


def test_cycles_end() -> None:
    """Delegation in a circle adds nothing."""
    ring = [f'Authorizer: "p{n}"\nLicensees: "p{(n + 1) % 5}"\n' for n in range(5)]
    policy = 'Authorizer: "POLICY"\nLicensees: "p0"\n'
    assert not Checker().query([policy, *ring], [], ["me"], {}).passed
    assert Checker().query([policy, *ring], [], ["p3"], {}).passed


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no field"),
        ('Licensees: "a"', "no Authorizer"),
        ('Authorizer: "a"\nAuthorizer: "b"', "twice"),
        ("# a comment alone", "no field"),
        ('Authorizer: "a"\nNonsense: "b"', "no field"),
        ('Authorizer: "a"\nloose text', "no field"),
        ('Authorizer: "a"\n\nLicensees: "b"', "blank"),
        ('Authorizer: "a"\n  \nLicensees: "b"', "blank"),
        ('Authorizer: "a"\nKeyNote-Version: 2', "first"),
        ('KeyNote-Version: 3\nAuthorizer: "a"', "only 2"),
        ('Signature: "x"\nAuthorizer: "a"', "last"),
        ('Authorizer: "a" "b"', "must end"),
        ('Authorizer: "a', "no end"),
        ('Authorizer: "a\\"', "no end"),
        ("Authorizer: 2 + 3", "no string"),
        ('Authorizer: "a"\nLicensees: 3-of("b", "c")', "3-of"),
        ('Authorizer: "a"\nLicensees: 0-of("b")', "0-of"),
        ('Authorizer: "a"\nLocal-Constants: x = "1" x = "2"', "twice"),
        ('Authorizer: "a"\nLocal-Constants: x "1"', "Local-Constants"),
        ('Authorizer: "a"\nConditions: true', "';'"),
        ('Authorizer: "a"\nConditions: "x";', "no test"),
        ('Authorizer: "a"\nConditions: 1 == "1";', "compares"),
        ('Authorizer: "a"\nConditions: &x == 1.0;', "compares"),
        ('Authorizer: "a"\nConditions: &x <= "50Mbps";', "compares"),
        ('Authorizer: "a"\nConditions: @x < 1.5;', "compares"),
        ('Authorizer: "a"\nConditions: 1 . 2 == 3;', "between"),
        ('Authorizer: "a"\nConditions: "a" + "b" == "c";', "between"),
        ('Authorizer: "a"\nConditions: 1.0 % 2.0 < 1.0;', "%"),
        ('Authorizer: "a"\nConditions: 2147483648 == 1;', "larger"),
        ('Authorizer: "a"\nConditions: true -> 3;', "no string"),
        ('Authorizer: "a"\nConditions: true -> { true;', "missing"),
        ('Authorizer: "a"\nConditions: caf\u00e9 == "x";', "ASCII"),
        ('Authorizer: "a"\r\nLicensees: "b"', "carriage"),
    ],
)
def test_what_is_no_assertion(text: str, word: str) -> None:
    """Each mistake is named."""
    with pytest.raises(KeyNoteError, match=word) as caught:
        parse(text)
    assert caught.value.kind is Why.SYNTAX


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ('Authorizer: "a"\nConditions: ' + "(" * 40 + "true" + ")" * 40 + ";", Limits()),
        ('Authorizer: "a"\nConditions: ' + "!" * 40 + "true;", Limits()),
        ('Authorizer: "a"\nConditions: ' + "true -> {" * 40 + "true;" + "};" * 40, Limits()),
        ('Authorizer: "a"\nConditions: @x == ' + "1 + " * 300 + "1;", Limits()),
        ('Authorizer: "a"\nConditions: ' + "true; " * 2000, Limits()),
        ('Authorizer: "a"\nLicensees: ' + " || ".join(['"b"'] * 200), Limits()),
        ('Authorizer: "a"\nLicensees: ' + "(" * 40 + '"b"' + ")" * 40, Limits()),
        ('Authorizer: "a"\nLocal-Constants: ' + " ".join(f'x{n} = "1"' for n in range(200)), Limits()),
        ('Authorizer: "a"\nComment: ' + "x" * 20_000, Limits()),
    ],
)
def test_limits_of_an_assertion(text: str, limits: Limits) -> None:
    """Depth, length, count."""
    with pytest.raises(KeyNoteError) as caught:
        parse(text, limits)
    assert caught.value.kind is Why.LIMIT


def test_the_four_equal_strings() -> None:
    """§4.3.1."""
    four = (
        '"this string contains a newline\\n followed by one space."',
        '"this string contains a newline\\n \\\n     followed by one space."',
        '"this str\\\n   ing contains a \\\n     newline\\n followed by one space."',
        '"this string contains a newline\\012\\040followed by one space."',
    )
    assert {string(text) for text in four} == {"this string contains a newline\n followed by one space."}
    assert string(r'"\0\00\000"') == "000000"
    assert string(r'"\a\\\"\377"') == 'a\\"\u00ff'
    assert string(quote('a"\\\n\u00ff')) == 'a"\\\n\u00ff'


def test_files_of_assertions() -> None:
    """Blank lines separate them; comments alone are none."""
    text = '# a file\n\nAuthorizer: "a"\nLicensees: "b"\n\n\n# between\nAuthorizer: "c"\n'
    found = split_assertions(text)
    assert len(found) == 2
    assert [parse(one).authorizer for one in found] == ["a", "c"]


def test_limits_of_a_query() -> None:
    """Count, size, attributes and values are looked at before anything is parsed; so a chain of 10,000 credentials costs nothing."""
    checker = Checker()
    policy = 'Authorizer: "POLICY"\nLicensees: "me"\n'
    for policies, attributes, values in (
        ([policy] * 65, {}, ("f", "t")),
        ([policy], {f"x{n}": "" for n in range(129)}, ("f", "t")),
        ([policy], {"x": "y" * 9000}, ("f", "t")),
        ([policy], {"_x": "y"}, ("f", "t")),
        ([policy], {"a-b": "y"}, ("f", "t")),
        ([policy], {}, ("t",)),
        ([policy], {}, ("t", "t")),
    ):
        with pytest.raises(KeyNoteError):
            checker.query(policies, [], ["me"], attributes, values)
    with pytest.raises(KeyNoteError, match="10001 assertions"):
        checker.query([policy], ["not even KeyNote"] * 10_000, ["me"], {})
    with pytest.raises(KeyNoteError):
        checker.query([policy], [], [], {})
