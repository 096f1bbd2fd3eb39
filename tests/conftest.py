from hypothesis import settings

pytest_plugins = ["tests.support.fixtures_hpsv3", "tests.support.fixtures_ocr", "tests.support.fixtures_redis", "tests.support.fixtures_s3"]

settings.register_profile("varl", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("varl")
