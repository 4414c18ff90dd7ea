"""The test runner's reading of pytest's report."""

from tests.support.run import failures, skips

REPORT = """<testsuites><testsuite>
<testcase classname="tests.contract.store.test_catalog" name="test_one[mongodb]">
  <skipped type="pytest.skip" message="no mongod">here</skipped></testcase>
<testcase classname="tests.unit.test_x" name="test_expected"><skipped type="pytest.xfail" message="known"/></testcase>
<testcase classname="tests.unit.test_x" name="test_fine" />
<testcase classname="tests.e2e.test_y" name="test_wrong"><failure message="assert 1 == 2">here</failure></testcase>
<testcase classname="tests.e2e.test_y" name="test_unprepared"><error message="no server">here</error></testcase>
</testsuite></testsuites>"""


def test_skipped_tests_are_named_with_their_reason_and_expected_failures_are_not() -> None:
    assert list(skips(REPORT)) == [("tests.contract.store.test_catalog.test_one[mongodb]", "no mongod")]


def test_tests_that_failed_are_named_and_those_whose_fixtures_did() -> None:
    assert list(failures(REPORT)) == ["tests.e2e.test_y.test_wrong", "tests.e2e.test_y.test_unprepared"]
