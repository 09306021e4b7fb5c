"""``polder pdp``: a policy file that holds no policy is a mistake to be told at once, not a provider that grants nothing."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from polder.cli.main import polder
from polder.settings import ConfigError


def test_a_policy_that_is_none_is_told(tmp_path: Path) -> None:
    policy = tmp_path / "policy.kn"
    policy.write_text('Authorizer: "POLICY"\nLicensees: "router:edge"\nConditions: rate < 5;\n')
    (tmp_path / "pdp.toml").write_text(f'socket = "{tmp_path}/pdp.sock"\npolicy = "{policy}"\n')
    done = CliRunner().invoke(polder, ["pdp", "--config", str(tmp_path / "pdp.toml")], standalone_mode=False)
    assert isinstance(done.exception, ConfigError)
    assert "compares string with integer" in str(done.exception)
    assert done.exception.source == str(policy)
