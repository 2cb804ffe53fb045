// Where Chromium is.

import { execFileSync } from "node:child_process";

/** The program that CHROMIUM names, or one of the usual names. */
export function findChromium() {
  const names = [process.env.CHROMIUM, "chromium", "chromium-browser", "google-chrome"].filter(Boolean);
  for (const name of names) {
    try {
      return execFileSync("sh", ["-c", 'command -v "$1"', "sh", name], { encoding: "utf8" }).trim();
    } catch {
      // not installed: try the next name
    }
  }
  throw new Error(`none of ${names.join(", ")} is installed`);
}
