// Words of SQL by the role that they have in an injection, from the grammars of SQL:2016, MySQL 8, PostgreSQL 16, SQL
// Server 2022, Oracle 23 and SQLite 3. A word without an entry is a name.

/** Kinds of words, one character each, as `sql-tokens.ts` writes them. */
const lists: Readonly<Record<string, string>> = {
  // Joins two conditions.
  '&': 'and or xor',
  '!': 'not',
  // Compares, as a word that prose has as well.
  '~': 'like ilike rlike regexp glob similar sounds between in is match',
  // Calculates.
  o: 'div mod collate binary',
  U: 'union intersect except minus',
  E: 'select',
  W: 'from where',
  // Literals that are words.
  t: 'true false null',
  // Stands between SELECT and its list.
  k: 'all distinct distinctrow top sql_calc_found_rows straight_join high_priority',
  i: 'case when then else elseif if iif',
  // Delays, reads files, runs commands, fails with data in the message: names that nothing else uses.
  F: `pg_sleep pg_sleep_for benchmark extractvalue updatexml load_file xp_cmdshell xp_dirtree xp_regread xp_fileexist
    sp_executesql sp_oacreate sp_makewebtask sp_password openrowset opendatasource openquery randomblob zeroblob
    load_extension group_concat string_agg listagg xmltype dbms_pipe dbms_lock dbms_xmlgen dbms_xmlquery dbms_utility
    dbms_ldap dbms_java dbms_scheduler utl_http utl_inaddr utl_file utl_tcp utl_smtp httpuritype dblink
    dblink_connect pg_read_file pg_ls_dir lo_import lo_export lo_get query_to_xml database_to_xml gtid_subset
    gtid_subtract json_arrayagg name_const geometrycollection multipoint polygon multilinestring linestring
    ctxsys drithsx sys_eval sys_exec bfilename make_set generate_series current_setting sqlite_version
    load_data_infile get_lock release_lock is_srvrolemember xp_servicecontrol fn_xe_file_target_read_file`,
  // The same, with names that other languages have too.
  S: 'sleep delay',
  // Says who and where.
  g: `version user database current_user session_user system_user schema user_name db_name suser_name suser_sname
    host_name connection_id last_insert_id current_database current_schema inet_server_addr getdate sysdate
    @@version @@hostname @@datadir @@servername`,
  f: `ascii ord char chr nchar substring substr mid left right length len char_length concat concat_ws hex unhex
    bin conv cast convert coalesce ifnull nullif isnull nvl decode count sum min max avg floor rand exp elt field
    find_in_set instr locate position strcmp lower upper lcase ucase md5 sha1 row_count greatest least
    to_char to_number typeof quote printf unicode stuff replace reverse exists any some row rownum ascii_char
    json_extract json_keys aes_encrypt encode from_base64 to_base64 crypt`,
  // The catalogue.
  T: `information_schema sysobjects syscolumns sysusers sysdatabases mysql pg_catalog pg_tables pg_user pg_shadow
    pg_class pg_database sqlite_master sqlite_schema all_tables all_users all_tab_columns user_tables
    user_tab_columns dba_users dba_tables msysobjects table_schema table_name column_name schema_name
    column_names xp_availablemedia`,
};

/** The kind of each word. */
export const sqlWords: ReadonlyMap<string, string> = new Map(
  Object.entries(lists).flatMap(([kind, list]) => list.split(/\s+/).map((word) => [word, kind] as const)),
);

const objects =
  'table|database|user|view|index|procedure|proc|function|schema|column|trigger|login|role|sequence|tablespace|temporary|temp|or|external|assembly|extension|alias|unique|materialized|constraint|package';

/**
 * How a statement begins: the first word, and what its next words must look like. A first word alone is English as
 * often as SQL.
 */
export const statements: ReadonlyMap<string, RegExp> = new Map(
  Object.entries({
    drop: `^(?:${objects})\\s{1,20}(?:if\\s{1,20}exists\\s{1,20})?\\S{1,80}?\\s{0,20}(?:[;'"),]|--|#|/\\*|cascade|$)`,
    create: `^(?:or\\s{1,9}replace\\s{1,9})?(?:table\\s{1,20}\\S{1,80}?\\s{0,20}(?:[(;]|--|#|as\\b|like\\b|$)|(?:${objects})\\s{1,20}\\S{1,80}?\\s{0,20}(?:[(;'"]|--|#|as\\b|identified|with\\b|returns|before|after|password|on\\s{1,20}\\S{1,80}\\s{0,20}\\(|$))`,
    alter: `^(?:${objects}|session|system)\\s{1,20}\\S{1,80}\\s{0,20}(?:[;=]|--|add|drop|modify|change|rename|set|alter|with|identified|enable|disable|owner)`,
    truncate: '^(?:table\\b|[\\w.]+\\s*(?:;|--|#|$))',
    insert: '^(?:ignore\\s{1,20})?into\\s{1,20}(?!\\.)\\S{1,80}?\\s{0,20}(?:[(]|values|select|set\\b|default\\b)',
    replace: '^into\\s{1,20}\\S{1,80}?\\s{0,20}(?:[(]|values|select|set\\b)',
    merge: '^into\\s',
    delete: '^from\\s{1,20}\\S{1,80}?\\s{0,20}(?:where\\b|[;\'"),]|--|#|/\\*|$)',
    update: '^[\\w.`"\\[\\]]{1,80}\\s{1,20}set\\s{1,20}[\\w.`"@\\[\\]]{1,80}\\s{0,20}=',
    exec: "^(?:\\(|@|\\w{1,60}\\.\\.|(?:master|msdb|sp_|xp_|dbo|sys|immediate)|\\w{1,60}\\s*(?:;|--|'|@))",
    execute: "^(?:\\(|@|\\w{1,60}\\.\\.|(?:master|msdb|sp_|xp_|dbo|sys|immediate)|\\w{1,60}\\s*(?:;|--|'|@))",
    declare: '^(?:@|\\w{1,40}\\s{1,10}(?:int|varchar|nvarchar|cursor|char|number|varchar2)\\b)',
    waitfor: '^(?:delay|time)\\b',
    shutdown: '^(?:;|--|#|with\\b|/\\*|$)',
    grant:
      '^(?:(?:all|select|insert|update|delete|execute|create|usage)\\b[\\s\\S]{0,80}\\bon\\b[\\s\\S]{0,120}\\bto\\b|(?:dba|connect|resource)\\b)',
    revoke: '^(?:all|select|insert|update|delete|execute)\\b[\\s\\S]{0,80}\\bon\\b[\\s\\S]{0,120}\\bfrom\\b',
    handler: '^\\S{1,80}\\s{1,20}(?:open|read)\\b',
    load: '^data\\s',
    copy: "^(?:\\(|[\\w.]{1,80}\\s{0,5}(?:\\([^)]{0,200}\\)\\s{0,5})?(?:from|to)\\s{1,5}(?:program|stdin|stdout|'))",
    attach: "^(?:database\\s|')",
    call: '^[\\w.]{1,80}\\(',
    begin: '^(?:declare\\b|dbms_|execute\\b|transaction\\b|exec\\b|end\\b|for\\b)',
    set: '^(?:@|global\\s|session\\s)',
    prepare: '^\\w{1,60}\\s{1,10}from\\b',
    deallocate: '^prepare\\b',
    backup: '^(?:database|log)\\b',
    restore: '^(?:database|log)\\b',
    bulk: '^insert\\b',
    reconfigure: '^(?:;|--|#|with\\b|$)',
    show: '^(?:tables|databases|columns|grants|variables|warnings|full|schemas)\\b',
    do: '^(?:sleep|benchmark|\\$\\$)',
    rename: '^table\\s',
    vacuum: '^(?:into|;|$)',
    pragma: '^\\w{1,60}\\s{0,5}(?:=|\\(|;|$)',
    use: '^(?:master|mysql|information_schema)\\b',
    kill: '^(?:query|connection)\\s',
    dbcc: '^\\w',
  }).map(([word, next]) => [word, new RegExp(next, 'i')]),
);

/** Clauses that follow an expression, by the same test. */
export const clauses: ReadonlyMap<string, RegExp> = new Map(
  Object.entries({
    order: '^by\\b',
    group: '^by\\b',
    having: '^[\\s(!\'"\\d@]',
    limit: '^(?:\\d|@|all\\b)',
    offset: '^\\d',
    procedure: '^analyse\\b',
    into: '^(?:outfile|dumpfile|@)',
    for: '^(?:update|xml|json)\\b',
    fetch: '^(?:first|next)\\b',
    returning: '^\\*',
  }).map(([word, next]) => [word, new RegExp(next, 'i')]),
);
