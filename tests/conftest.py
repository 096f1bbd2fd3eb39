from hypothesis import settings

pytest_plugins = ["tests.fixtures_hpsv3", "tests.fixtures_ocr", "tests.fixtures_redis", "tests.fixtures_s3"]

settings.register_profile("varl", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("varl")
