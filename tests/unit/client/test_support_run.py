"""The test runner's reading of pytest's report."""

from tests.support.run import skips

REPORT = """<testsuites><testsuite>
<testcase classname="tests.contract.store.test_catalog" name="test_one[mongodb]">
  <skipped type="pytest.skip" message="no mongod">here</skipped></testcase>
<testcase classname="tests.unit.test_x" name="test_expected"><skipped type="pytest.xfail" message="known"/></testcase>
<testcase classname="tests.unit.test_x" name="test_fine" />
</testsuite></testsuites>"""


def test_skipped_tests_are_named_with_their_reason_and_expected_failures_are_not() -> None:
    assert list(skips(REPORT)) == [("tests.contract.store.test_catalog.test_one[mongodb]", "no mongod")]
