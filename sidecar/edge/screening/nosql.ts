// NoSQL injection: MongoDB's operators where a value is expected, in names of parameters, keys of JSON and text, and
// JavaScript in a `$where`.

import { type Detect, signsOf } from './finding.ts';

const signs = signsOf('nosql', { operator: [5], script: [5], breakout: [5] });

const operators =
  'ne|eq|gte?|lte?|n?in|regex|where|exists|or|and|nor|not|expr|jsonschema|type|mod|text|elemmatch|size|all|func|function|accumulator|lookup|set|inc|unset|push|rename|comment|natural';
const inName = new RegExp(`(?:^|[.[])\\$(?:${operators})(?:$|[\\].[])`, 'i');
const inText = new RegExp(
  `(?:[{,]\\s{0,9}['"]?\\$(?:${operators})['"]?\\s{0,9}:|\\[\\$(?:${operators})\\]\\s{0,4}(?:=|$|\\[)|^\\s{0,4}['"]?\\$(?:ne|gte?|lte?|n?in|regex|where|exists|or|and|nor)['"]?\\s{0,9}:)`,
  'i',
);

export const detectNosql: Detect = function detectNosql(text, report, place) {
  if (place === 'name') {
    if (inName.test(text)) report(signs.operator);
    return;
  }
  if (
    text.includes('$') &&
    inText.test(text) &&
    /['"\]]\s{0,4}:|\]|^[\s'"\]},]{0,9}[{[]|^\s{0,4}\$|^\s{0,9}(?:true|1)\s{0,4},/.test(text) &&
    !/[{,]\s{0,9}['"]?\$(?:set|inc|push|unset)\b/i.test(text)
  )
    report(signs.operator);
  if (
    /['"]\s{0,9}(?:;|\|\||&&|\))\s{0,9}(?:return\b|this\.|db\.|while\s{0,9}\(|sleep\s{0,9}\(|emit\(|tojson|function\b)|\bthis\.\w{1,40}\s{0,9}(?:==?=?|!=|\.match\()[^\n]{0,100}(?:\|\||&&|\/\/)|\bdb\.(?:\w{1,40}\.(?:drop|insert|find|remove|update|stats|aggregate)|getcollectionnames|injection|version|dropdatabase|getmongo)\s{0,4}\(|;\s{0,9}return\s{1,9}(?:true|1|this|!|'')|new\s{1,4}date\(\)[^\n]{0,200}while\s{0,4}\(/i.test(
      text,
    )
  )
    report(signs.script);
  if (
    /^[^'"]{0,40}['"]\s{0,9}(?:\|\||&&)\s{0,9}(?:['"]?[\w]{1,10}['"]?\s{0,4}==?=?\s{0,4}['"]?\w{1,10}|true|1)\b|^\s{0,4}(?:true|1)\s{0,4},\s{0,4}\$where\s{0,4}:|^['"]\s{0,4},\s{0,4}['"]?\$\w{2,10}/i.test(
      text,
    )
  )
    report(signs.breakout);
};
