/** flashpipe's version, as in package.json (tests/pack_test.ts compares them). */
export const VERSION = "0.1.0";
