# sqlite3: 20,000 inserts in one transaction, then 200 in one each.
set -eu
[ "$1" = small ] && together=500 single=10 || together=20000 single=200
inserts() {
    seq "$1" | sed 's/.*/insert into words(text) values("word number &");/'
}
{
    echo 'create table words(id integer primary key, text text);'
    echo 'begin;'
    inserts $together
    echo 'commit;'
    inserts $single
    echo 'select count(*), sum(length(text)) from words;'
} > commands
sqlite3 words.db < commands
