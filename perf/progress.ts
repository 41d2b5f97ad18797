// Shows progress on standard error, once a run takes longer than two seconds.

const quietMs = 2000;

export class Progress {
  readonly #started = performance.now();
  readonly #out = process.stderr;
  #title = '';
  #shown = '';

  /** Names the current measure. */
  title(text: string): void {
    this.#title = text;
    this.detail('');
  }

  /** Progress within the measure; shown on a terminal only, where it replaces the line. */
  detail(text: string): void {
    const seconds = (performance.now() - this.#started) / 1000;
    if (seconds * 1000 < quietMs) return;
    if (this.#out.isTTY) this.#out.write(`\r\x1b[K${seconds.toFixed(0)} s  ${this.#title}${text}`);
    else if (this.#shown !== this.#title) this.#out.write(`${seconds.toFixed(0)} s  ${this.#title}\n`);
    this.#shown = this.#title;
  }

  /** Clears the line for output. */
  clear(): void {
    if (this.#out.isTTY) this.#out.write('\r\x1b[K');
  }
}
