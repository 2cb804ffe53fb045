// What the tests of both TypeScript clients have in common.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const address = process.env["MASKCLIP_URL"];
assert.ok(address, "MASKCLIP_URL names the server");

export const baseUrl: string = address;

const picture = readFileSync(new URL("../../../../examples/fruit.png", import.meta.url));

export const base64: string = picture.toString("base64");

export const file = (): File => new File([picture], "fruit.png", { type: "image/png" });
