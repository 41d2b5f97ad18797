// The form of a gateway's refusals: the operator's page for clients that read HTML, a problem document (RFC 9457) for
// programs that ask for JSON, else plain text. None of them contains more than the text.

import type { Denial } from '../../exchange/ends.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { addFields, filterFields } from '../../exchange/fields.ts';
import { reasonPhrase } from '../../protocol/http1/print.ts';
import { chooseType } from '../accept.ts';

const plainOffers = ['text/plain', 'application/problem+json', 'application/json'] as const;
const pageOffers = [...plainOffers, 'text/html'] as const;

/** Pages by status. */
export type ErrorPages = ReadonlyMap<number, Buffer>;

/** From files by name. `5xx.html` sorts after `503.html`, so that a page for one status wins over one for its class. */
export function pagesOf(files: Readonly<Record<string, string>>): ErrorPages {
  const pages = new Map<number, Buffer>();
  for (const [file, text] of Object.entries(files)) {
    const [, first = '', rest = ''] = /^([45])(\d\d|xx)\.html$/.exec(file) ?? [];
    const page = Buffer.from(text);
    const statuses =
      rest === 'xx' ? Array.from({ length: 100 }, (_, i) => Number(first) * 100 + i) : [Number(first + rest)];
    for (const status of first === '' ? [] : statuses) if (rest !== 'xx' || !pages.has(status)) pages.set(status, page);
  }
  return pages;
}

/** The denial in the form that the client prefers; the text of an external authorizer is left unchanged. */
export function wordDenial(exchange: Exchange, denial: Denial, errorPages: ErrorPages): Denial {
  if (exchange.failure?.code === 'ext_authz_denied' && denial.body.length > 0) return denial;
  if (isDocument(denial)) return denial;
  const page = errorPages.get(denial.status);
  const type = chooseType(headerOf(exchange, 'accept'), page === undefined ? plainOffers : pageOffers);
  if (type === 'text/plain') return asVaried(denial);
  if (type === 'text/html') return withBody(denial, 'text/html; charset=utf-8', fillPage(page!, exchange));
  return withBody(denial, 'application/problem+json', problemOf(exchange, denial));
}

/** A capability that says more than a status, or has a form of its own, writes the document itself. */
function isDocument({ fields: { names, values } }: Denial): boolean {
  return names.some(({ lower }, i) => lower === 'content-type' && documents.has(values[i]!));
}

const documents: ReadonlySet<string> = new Set(['application/problem+json', 'application/json']);

/** A cache must not give one client's form to the next. */
function asVaried(denial: Denial): Denial {
  return { ...denial, fields: addFields(denial.fields, [['vary', 'Accept']]) };
}

function withBody(denial: Denial, type: string, body: Buffer): Denial {
  const kept = filterFields(denial.fields, ({ lower }) => lower !== 'content-type');
  return asVaried({ ...denial, fields: addFields(kept, [['content-type', type]]), body });
}

/** Section 4.2.1: with `about:blank` the title is the status in words. */
function problemOf({ rules, decisionId }: Exchange, { status, body }: Denial): Buffer {
  const problem = {
    type: 'about:blank',
    title: reasonPhrase(status) || 'Refused',
    status,
    ...(body.length === 0 ? {} : { detail: body.toString('utf8') }),
    ...(rules.decisionHeader ? { instance: decisionId } : {}),
  };
  return Buffer.from(JSON.stringify(problem));
}

const placeholder = '{{request_id}}';

/** The page with the request's ID. A stranger may have chosen the ID, and it is inserted into HTML. */
function fillPage(page: Buffer, { requestId }: Exchange): Buffer {
  if (!page.includes(placeholder)) return page;
  return Buffer.from(page.toString('utf8').replaceAll(placeholder, () => escapeHtml(requestId)));
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (one) => entities[one]!);
}
