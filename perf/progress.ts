// What runs, on standard error, once a run takes longer than two seconds.

const quietMs = 2000;

export class Progress {
  readonly #started = performance.now();
  readonly #out = process.stderr;
  #title = '';
  #said = '';

  /** Names what is measured now. */
  title(text: string): void {
    this.#title = text;
    this.detail('');
  }

  /** How far it is; shown on a terminal alone, where it takes the place of what was there. */
  detail(text: string): void {
    const seconds = (performance.now() - this.#started) / 1000;
    if (seconds * 1000 < quietMs) return;
    if (this.#out.isTTY) this.#out.write(`\r\x1b[K${seconds.toFixed(0)} s  ${this.#title}${text}`);
    else if (this.#said !== this.#title) this.#out.write(`${seconds.toFixed(0)} s  ${this.#title}\n`);
    this.#said = this.#title;
  }

  /** Makes room for a line of output. */
  clear(): void {
    if (this.#out.isTTY) this.#out.write('\r\x1b[K');
  }
}
