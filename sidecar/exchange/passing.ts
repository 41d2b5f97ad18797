// A downstream in front of another: the base of what changes or reads a response on its way.

import type { Downstream } from './ends.ts';
import type { Fields, Reply } from './message.ts';

/** Passes everything to `inner` as it is. A subclass overrides what it changes. */
export class PassingDownstream implements Downstream {
  protected readonly inner: Downstream;

  constructor(inner: Downstream) {
    this.inner = inner;
  }

  informational(reply: Reply): void {
    this.inner.informational(reply);
  }

  respond(reply: Reply, whole: Buffer | undefined): void {
    this.inner.respond(reply, whole);
  }

  write(chunk: Buffer): boolean {
    return this.inner.write(chunk);
  }

  end(trailers: Fields): void {
    this.inner.end(trailers);
  }

  abort(): void {
    this.inner.abort();
  }

  pause(): void {
    this.inner.pause();
  }

  resume(): void {
    this.inner.resume();
  }

  tunnel(...args: Parameters<Downstream['tunnel']>): void {
    this.inner.tunnel(...args);
  }
}
