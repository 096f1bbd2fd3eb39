pytest_plugins = ["tests.fixtures_ocr", "tests.fixtures_redis"]
