/** What the comparisons with Python call (tests/serve/export/test_web_*.py); no part of the page. */

export { SeveralDigits } from "./arrays";
export * from "./digits";
export * from "./photos";
export * from "./reading";
