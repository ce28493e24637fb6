/** What the comparison with Python calls (tests/serve/export/test_web_parity.py); no part of the page. */

export * from "./digits";
export * from "./photos";
