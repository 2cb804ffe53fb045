// The page's request as a shell command.

import { currentKey } from "./api.js";
import { element } from "./dom.js";

/** The command. It fetches an example from this server, so it works on any machine. */
export function curlCommand(image, fields) {
  const request = `--form-string ${shellQuote(`request=${JSON.stringify(fields)}`)}`;
  const answer = `-o reply.json -w 'HTTP %{http_code}, saved as reply.json\\n'`;
  const url = shellQuote(absolute("v1/segment"));
  // The key itself would stay in the shell's history.
  const key = currentKey() ? ` \\\n  -H "Authorization: Bearer $MASKCLIP_KEY"` : "";
  const send = (file) =>
    `curl -sS ${url}${key} \\\n  -F ${shellQuote(`image=@${file}`)} \\\n  ${request} \\\n  ${answer}`;
  if (image?.exampleUrl) return `curl -sS ${shellQuote(absolute(image.exampleUrl))} |\n${send("-")}`;
  return send(image ? curlFileName(image.name) : "FILE");
}

/** The whole address of what the page finds relative to itself, behind a proxy under a path, too. */
function absolute(address) {
  return new URL(address, document.baseURI).href;
}

/** curl gives comma, semicolon, quote and backslash a meaning in a form's value, so a name with these is quoted. */
function curlFileName(name) {
  return /[",;\\]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name;
}

function shellQuote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * Shows the command whenever its fold is open, and copies it if the browser allows that (only over https or on this
 * machine).
 */
export class CurlPanel {
  #command;
  #needsFile;

  /**
   * @param {() => string} command
   * @param {() => string | null} needsFile the name of a file that the command expects in the current folder
   */
  constructor(command, needsFile) {
    this.#command = command;
    this.#needsFile = needsFile;
    element("curl").addEventListener("toggle", () => this.refresh());
    element("copy-curl").addEventListener("click", () => this.#copy());
  }

  refresh() {
    if (!element("curl").open) return;
    const area = element("curl-command");
    area.value = this.#command();
    area.rows = area.value.split("\n").length + 1;
    element("copied").textContent = "";
  }

  async #copy() {
    this.refresh();
    const file = this.#needsFile();
    const where = file ? ` The command expects ${file} in the current folder.` : "";
    try {
      await navigator.clipboard.writeText(element("curl-command").value);
      element("copied").textContent = `Copied.${where}`;
    } catch {
      element("curl-command").select();
      element("copied").textContent = `Copy the selected text.${where}`;
    }
  }
}
