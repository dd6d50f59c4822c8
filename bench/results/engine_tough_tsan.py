"""Every room that uses threads under ThreadSanitizer."""

import common
import tough


def main():
    claims = common.Claims(__file__)
    with claims.rows("engine.tough.tsan"):
        if claims.long:
            tough.sanitized(claims, "engine.tough.tsan", "tsan", tough.CONCURRENT)
    claims.finish()


if __name__ == "__main__":
    main()
