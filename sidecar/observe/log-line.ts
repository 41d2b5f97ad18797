// One line of JSON, with what JSON's strings need.

import { ByteWriter } from '../../cert-agent/base/byte-writer.ts';

/** Holds one line, in ASCII. */
export class LogLine extends ByteWriter {
  /** Adds a string of ours, or in a checked form, which needs no escaping; null for nothing. */
  own(value: string | undefined): this {
    if (isNothing(value)) return this.raw('null');
    this.makeRoom(2);
    this.bytes[this.length++] = quote;
    this.raw(value);
    this.makeRoom(1);
    this.bytes[this.length++] = quote;
    return this;
  }

  /** Adds any string, escaped where JSON requires it and in ASCII; null for nothing. */
  text(value: string | undefined): this {
    if (isNothing(value)) return this.raw('null');
    return needsEscape.test(value) ? this.raw(escaped(value)) : this.own(value);
  }
}

const quote = 0x22;

function isNothing(value: string | undefined): value is undefined {
  return value === undefined || value === '' || value === '-';
}

const needsEscape = /[^ !#-[\]-~]/;

function escaped(value: string): string {
  return JSON.stringify(value).replace(
    /[\x7f-\uffff]/g,
    (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
