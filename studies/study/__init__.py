"""A study: several arms at several seeds on one base, compared with paired intervals."""
