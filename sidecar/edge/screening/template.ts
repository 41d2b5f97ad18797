// Template and expression injection: an expression between the marks of a template language that calculates or reaches
// into the program. Placeholders such as `{{ name }}` pass.

import { type Detect, signsOf } from './finding.ts';

const signs = signsOf('template', {
  calculation: [5],
  reach: [5],
  lookup: [5],
  name: [5],
  statement: [5],
});

const needed = /\{\{|\$\{|#\{|\{%|<%|\*\{|@\(|\[\[|%\{|\{#|#set|\$\$?\{|<#|\{php|@\{|~\{|\{=|\{@|\{\$smarty|::|\[#/;

const expression =
  /(?:\{\{|\$\{|#\{|<%[=#-]?|\*\{|@\(|\[\[\$?\{?|%\{|@\{|~\{|\{%|\{#|\{=|\{@|\{)([\s\S]{1,300}?)(?:\}\}|\}|%>|\)|\]\])/g;

/** Literals and operators alone. */
const calculation =
  /^[\s=]{0,9}(?:\(?\s{0,4}(?:\d{1,12}|'[^']{0,20}'|"[^"]{0,20}")\s{0,4}\)?\s{0,4}(?:\*\*?|[-+/%]|==|~|\|\|)\s{0,4}){1,6}\(?(?:\d{1,12}|'[^']{0,20}'|"[^"]{0,20}")(?:\.\w{1,20}\(?\)?)?\)?[\s)]{0,9}$/;
const reach =
  /__\w{3,20}__|\b(?:getruntime|java\.lang|java\.util|javax\.|org\.springframework|t\(java|freemarker|objectconstructor|processbuilder|subprocess|popen|child_process|process\.(?:mainmodule|binding|env)|require\(|global\.process|constructor\.constructor|self\._|self\.__|lipsum|cycler|joiner|request\.(?:application|environ|class)|config\.(?:items|class|__)|_self\.env|registerundefinedfiltercallback|getfilter|file_get_contents|shell_exec|passthru|os\.(?:popen|system)|system\(|exec\(|eval\(|file\.(?:read|open)|dir\.entries|io\.popen|getclass|forname|newinstance|scriptengine|memberaccess|ognl|runtime\.|attr\(|fetch\(|alert\(|sessionscope|applicationscope|debug\(|settings\.secret_key|url_for\.|get_flashed_messages|new\s{1,4}[\w.]{2,40}\(|range\(\d)|`|%x|#_|#context|\bcontext\[|xwork|session\.[gs]etattribute|\|\s{0,4}(?:system|exec|passthru)\b|app\.request\.|#application|@java|@org|\.class\.|\.constructor\b|\|\s{0,4}(?:filter|map|sort|reduce|attr)\s{0,4}\(/i;

export const detectTemplate: Detect = function detectTemplate(text, report) {
  if (!needed.test(text)) return;
  // Log4j's lookups, also put together from others: ${${lower:j}ndi:...}.
  if (
    /\$\{[^}\n]{0,100}?(?:j[^a-z]{0,3}n[^a-z]{0,3}d[^a-z]{0,3}i\s{0,4}:|\$\{(?:lower:|upper:|env:|sys:|::|[^}]{0,10}:-)|\b(?:lower|upper|env|sys|java|ctx|script|dns|url|date|k8s|docker|main|bundle|base64decoder):)/i.test(
      text,
    )
  )
    report(signs.lookup);
  if (
    /#set\s{0,4}\(\s{0,4}\$|[<[]#assign\b|\{php\}|\{\$smarty\.|\{\w{1,40}::\w{1,40}\(|\{%\s{0,9}(?:import|include|extends|debug|load|exec|print\b|for\s{1,9}\w{1,20}\s{1,9}in\s[^%]{0,100}__)|<%[=\s-]{0,9}(?:system|exec|eval|`|require|File|IO|Dir|Runtime|response|out\.)|#\{\s{0,4}(?:system|exec|`|%x|IO\.|File\.)|@\(\s{0,4}\d{1,9}\s{0,4}[-+*/]/i.test(
      text,
    )
  )
    report(signs.statement);
  let count = 0;
  for (const match of text.matchAll(expression)) {
    if (++count > 200) break;
    const inner = match[1]!.replace(/^[{$%#=\s-]{1,9}/, '');
    const isBraced = match[0].startsWith('{') && !/^\{[{%#=@]/.test(match[0]);
    if (calculation.test(inner)) {
      if (!isBraced || /^\{\d{1,9}\s{0,4}[*]\s{0,4}\d/.test(match[0])) report(signs.calculation);
    } else if (!isBraced && reach.test(inner)) report(signs.reach);
    else if (
      !isBraced &&
      match[0].startsWith('{') &&
      text.length < 60 &&
      /^(?:config|self|settings|request|session|_self|@root|dump\(\w{0,20}\)?|\.|app\.request\S{0,60}|\$smarty\.version)\s{0,4}$/i.test(
        inner,
      ) &&
      match[0].length >= text.trim().length - 4
    )
      report(signs.name);
  }
};
