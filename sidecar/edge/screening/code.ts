// Code that a server would run or load: PHP, serialized objects, XML with entities, server-side includes.

import { type Detect, signsOf } from './finding.ts';

const signs = signsOf('code', {
  php: [5],
  call: [5],
  object: [5],
  entity: [5],
  prototype: [5],
  include: [5],
  java: [5],
});

const needed =
  /<\?|<%@|<cf|<!|<xi:|\(|rO0|aced|O:\d|a:\d|__proto__|constructor|java|\b[AE]AAA|!!|gASV|c__builtin|<esi:|classLoader|"[$@]/i;

export const detectCode: Detect = function detectCode(text, report, place) {
  if (!needed.test(text)) return;
  if (/<\?(?:php\b|=|\s{1,9}(?:system|eval|echo|phpinfo|exec|passthru|shell_exec|include|require|\$))/i.test(text))
    report(signs.php);
  if (
    /\b(?:system|passthru|shell_exec|popen|proc_open|pcntl_exec|assert|create_function|call_user_func(?:_array)?|file_put_contents|file_get_contents|base64_decode|gzinflate|str_rot13|phpinfo|exec|eval)\s{0,9}\(\s{0,9}(?:['"]\s{0,4}(?:[a-z]{2,10}['"]|[/\w-]{1,40}\s{1,4}[-/\w]|id\b|ls\b|cat\b|whoami|uname|dir\b|sleep|http)|\$_(?:get|post|request|cookie|server|files)|base64_decode|gzinflate|str_rot13|chr\(|request\.|params\[)|\bphpinfo\s{0,4}\(\s{0,4}\)|\$_(?:get|post|request|cookie|server|files)\s{0,4}\[|\b(?:__import__|importlib\.import_module)\s{0,4}\(\s{0,4}['"](?:os|subprocess|socket|commands|pty)|\bos\.(?:system|popen|exec\w{0,3})\s{0,4}\(|subprocess\.(?:call|run|popen|check_output|getoutput)\s{0,4}\(\s{0,4}\[?['"]|\brequire\s{0,4}\(\s{0,4}['"](?:node:)?(?:child_process|fs|vm|net)['"]\s{0,4}\)\s{0,4}\.|process\.(?:mainmodule|binding\(|exit\(\)|kill\(|env\.\w)|child_process['"]?\)?\.(?:exec|spawn)|\bkernel\.(?:exec|system|open)|open\(\s{0,4}['"]\||\$\{@\w{2,20}\(/i.test(
      text,
    )
  )
    report(signs.call);
  if (
    /^(?:rO0AB|aced0005|H4sIA[A-Z]{4}.{0,4}rO0|AAEAAAD\/{4}|gASV|KGRw|Y19f)|(?:^|[^\w])(?:O|C):\d{1,4}:"[\w\\]{1,200}":\d{1,4}:\{|^a:\d{1,4}:\{(?:i:\d|s:\d{1,4}:)[\s\S]{0,200}O:\d|\bc(?:__builtin__|os|posix|subprocess)\n|!!(?:python\/object|javax?\.|ruby\/object|com\.sun)|_\$\$ND_FUNC\$\$_|"\$type"\s{0,4}:\s{0,4}"System\.|"@type"\s{0,4}:\s{0,4}"(?:com\.|org\.|java)/.test(
      text,
    )
  )
    report(signs.object);
  if (
    /<!entity\s|<!doctype\s[^>]{0,200}(?:\[|\b(?:system|public)\s{1,9}["'](?!-\/\/|http:\/\/www\.w3\.org|about:))|<xi:include|xmlns:xi=/i.test(
      text,
    )
  )
    report(signs.entity);
  if (
    place === 'name'
      ? /(?:^|[.[])(?:__proto__|constructor(?:\.|\]?\[)prototype)(?:$|[\].[])/.test(text)
      : /__proto__\s{0,4}(?:["'\]]{1,2}\s{0,4})?[:=.[]|constructor["'\].[:{\s]{1,8}prototype["'\].[=:]/.test(text)
  )
    report(signs.prototype);
  if (
    /<!--\s{0,4}#\s{0,4}(?:exec|include|echo|config|set|printenv|flastmod|fsize)\b|<cf(?:execute|include|file|http|query)\b|<%@\s{0,9}(?:page|include|taglib)\b|<esi:(?:include|inline|debug|vars|comment)/i.test(
      text,
    )
  )
    report(signs.include);
  if (
    /(?:java\.lang\.(?:runtime|processbuilder|class|system)|getruntime\s{0,4}\(|class\.module\.classloader|classloader\.(?:resources|url)|javax\.(?:naming|script)|com\.sun\.rowset|org\.apache\.commons\.collections|ysoserial|springframework\.context\.support|xmldecoder)/i.test(
      text,
    ) &&
    /[({=\].]/.test(text) &&
    !/^\s{0,9}(?:import|package|\/\/|at) /m.test(text) &&
    !/exception\b/i.test(text)
  )
    report(signs.java);
};
