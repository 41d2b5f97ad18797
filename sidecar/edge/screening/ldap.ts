// LDAP injection: text that closes a condition of a filter (RFC 4515) and opens another.

import { type Detect, signsOf } from './finding.ts';

const signs = signsOf('ldap', { filter: [5], wildcard: [3], whole: [3] });

export const detectLdap: Detect = function detectLdap(text, report) {
  if (!text.includes(')') && !text.includes('(')) return;
  // A bracket that the text has not opened is closed, and a condition follows.
  const close = text.indexOf(')');
  const open = text.indexOf('(');
  if (close !== -1 && (open === -1 || close < open)) {
    if (
      /^[^(]{0,200}\)[\s)\0]{0,9}\(\s{0,4}(?:[|&!]\s{0,4}(?:\(|\)|$)|[!]?[a-z][\w;.-]{0,60}\s{0,4}[~<>]?=\s{0,4}[^=])/i.test(
        text,
      )
    )
      report(signs.filter);
    else if (/\*\)+[\s\0]{0,4}(?:[|&(]|\0|%00|$)/.test(text) && text.length < 200)
      report(/\*\)+(?:[|&(]|\0)/.test(text) || /^\*?\)/.test(text) ? signs.filter : signs.wildcard);
    else if (/^[^(]{0,80}\)\s{0,4}(?:\(\s{0,4}[|&!]\s{0,4}|[|&]\s{0,4}\()/.test(text)) report(signs.filter);
  }
  if (/\(\s{0,4}[&|]\s{0,4}\(\s{0,4}!?\(?[a-z][\w-]{0,40}[~<>]?=[^()=]{1,80}\)/i.test(text)) report(signs.whole);
  if (
    /[(]\s{0,4}(?:objectclass|uid|cn|userpassword|samaccountname|memberof|mail|sn|ou)\s{0,4}[~<>]?=\s{0,4}[^()]{0,60}\*?\)/i.test(
      text,
    ) &&
    /\([^()\n]{0,40}=\*|[|&]\s{0,4}\(/.test(text)
  )
    report(signs.filter);
};
