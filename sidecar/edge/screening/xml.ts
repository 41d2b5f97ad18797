// The values of an XML document, from its tokens (XML 1.0 sections 2.4 to 3.1). Entities are never resolved: a document
// that declares its own is an attack, or a format that belongs behind another rule.

import { maxValues, type Take } from './finding.ts';

/** Comments, CDATA sections, instructions, declarations, tags and text, in this order at each place. */
const token = /<!--|<!\[CDATA\[|<\?|<!|<\/?|[^<]+/g;

/** Takes each text and each attribute. Linear in the length. */
export function readXml(text: string, take: Take): void {
  token.lastIndex = 0;
  /** The end of a token; the end of the text if it is cut. */
  const endOf = (mark: string, from: number): number => {
    const at = text.indexOf(mark, from);
    return at === -1 ? text.length : at;
  };
  /** Elements that are open, and the text in the innermost so far: sections and comments do not end it. */
  const open: string[] = [];
  let count = 0;
  let said = '';
  const flush = (): void => {
    if (said.trim() !== '') take('body', open.at(-1) ?? '', said);
    said = '';
  };
  for (let at = 0; at < text.length; ) {
    token.lastIndex = at;
    const [mark] = token.exec(text)!;
    const from = at + mark.length;
    let end: number;
    if (mark === '<!--') {
      end = endOf('-->', from);
      at = end + 3;
    } else if (mark === '<![CDATA[') {
      end = endOf(']]>', from);
      said += text.slice(from, end);
      at = end + 3;
    } else if (mark === '<?') {
      end = endOf('?>', from);
      at = end + 2;
      if (/^xml-stylesheet/i.test(text.slice(from, from + 20))) take('body', '', text.slice(from - 2, at));
    } else if (mark === '<!') {
      end = endOf('>', from);
      // With an internal subset it ends later, which does not matter: the mark of the entity is in here or behind.
      const declaration = text.slice(at, Math.min(text.length, end + 4096));
      take('body', '', declaration);
      at = end + 1;
    } else if (mark === '<' || mark === '</') {
      end = endOfTag(text, from);
      const tag = text.slice(from, end);
      flush();
      if (mark === '<') {
        const name = /^[^\s/>]{1,100}/.exec(tag)?.[0] ?? '';
        take('name', name, name);
        // The budget of values has ended.
        if (++count > maxValues) return;
        takeAttributes(tag, take);
        if (!tag.endsWith('/')) open.push(name);
      } else open.pop();
      at = end + 1;
    } else {
      said += mark;
      at = from;
    }
  }
  flush();
}

function endOfTag(text: string, from: number): number {
  let quote = '';
  for (let at = from; at < text.length; at++) {
    const one = text[at]!;
    if (quote !== '') {
      if (one === quote) quote = '';
    } else if (one === '"' || one === "'") quote = one;
    else if (one === '>') return at;
  }
  return text.length;
}

function takeAttributes(tag: string, take: Take): void {
  for (const [, name, double, single] of tag.matchAll(
    /([^\s=/"'<>]{1,100})\s{0,20}=\s{0,20}(?:"([^"]*)"|'([^']*)')/g,
  )) {
    // Names of namespaces are addresses that are never fetched.
    if (/^xmlns(?::|$)|:?schemaLocation$/.test(name!)) continue;
    take('body', name!, double ?? single!);
  }
}
