"""The whole test suite under AddressSanitizer and UndefinedBehaviorSanitizer."""

import common
import tough


def main():
    claims = common.Claims(__file__)
    with claims.rows("engine.tough.asan"):
        if claims.long:
            tough.sanitized(claims, "engine.tough.asan", "asan")
    claims.finish()


if __name__ == "__main__":
    main()
