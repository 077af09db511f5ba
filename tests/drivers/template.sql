-- What each database of the matrix begins with.
create table items (id int primary key, name text);
insert into items select id, 'item' from generate_series(1, 50) id;

-- One function for each statement that is to be told apart. In plpgsql, so that none is inlined.
do $$
declare
    body record;
    name text;
begin
    for body in
        select * from (values
            ('()', 'int', '1', '{simple_one,multi_one,multi_two,piped_one}'::text[]),
            ('(n int)', 'int', 'n + 1', '{extended_sum,unnamed_number,piped_number,before_error,after_error}'),
            ('(n int)', 'int', '1 / n', '{divided,piped_division}'),
            ('(t text)', 'int', 'length(t)', '{long_length,long_parameter}'),
            ('()', 'text', $text$repeat('y', 1000)$text$, '{large_row}')
        ) bodies (parameters, type, value, names)
    loop
        foreach name in array body.names loop
            execute format('create function %I%s returns %s language plpgsql as %L', name, body.parameters, body.type,
                'begin return ' || body.value || '; end');
        end loop;
    end loop;
    for number in 0..6 loop
        execute format('create function timed_%s() returns void language plpgsql as %L', number,
            'begin perform pg_sleep(0.1); end');
    end loop;
end $$;
