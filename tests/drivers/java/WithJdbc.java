import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.postgresql.PGConnection;

/**
 * JDBC: its own implementation of the protocol, everything extended; names statements from their fifth execution on,
 * sends batches before it reads, fetches by portal.
 */
public class WithJdbc {
    private static final Map<String, Long> errors = new TreeMap<>();
    private static final List<Long> timed = new ArrayList<>();

    public static void main(String[] arguments) throws Exception {
        String host = arguments[0], port = arguments[1], database = arguments[2], attach = arguments[3];
        Properties settings = new Properties();
        settings.setProperty("user", "postgres");
        settings.setProperty("sslmode", arguments[4]);
        wait("before", attach);
        String url = "jdbc:postgresql://" + host + ":" + port + "/" + database;
        try (Connection connection = DriverManager.getConnection(url, settings)) {
            run(connection, attach);
        }
        System.out.println(errors.entrySet().stream()
            .map(one -> "\"" + one.getKey() + "\": " + one.getValue())
            .collect(Collectors.joining(", ", "{\"errors\": {", "}, \"timed_ns\": " + timed + "}")));
    }

    private static void run(Connection connection, String attach) throws Exception {
        Statement statement = connection.createStatement();
        PreparedStatement named = connection.prepareStatement("select name from items where id = ?");
        // As often as makes it a named one: `prepareThreshold` is 5.
        for (int id = 1; id <= 6; id++) {
            named.setInt(1, id);
            query(named);
        }
        wait("midstream", attach);

        for (int n = 0; n < 3; n++) {
            count(statement.executeQuery("select simple_one()"));
        }
        try (PreparedStatement sum = connection.prepareStatement("select extended_sum(?)")) {
            for (int n = 0; n < 8; n++) {
                sum.setInt(1, n);
                query(sum);
            }
        }
        for (int id = 1; id <= 10; id++) {
            named.setInt(1, id);
            query(named);
        }
        try (PreparedStatement insert =
                connection.prepareStatement("insert into items (id, name) values (?, 'a'), (?, 'b'), (?, 'c')")) {
            for (int n = 1; n <= 3; n++) {
                insert.setInt(n, 100 + n);
            }
            insert.executeUpdate();
        }
        statement.executeUpdate("update items set name = 'd' where id > 100");
        statement.executeUpdate("delete from items where id > 102");
        String x = "x".repeat(65536);
        count(statement.executeQuery("select long_length('" + x + "')"));
        try (PreparedStatement parameter = connection.prepareStatement("select long_parameter(?)")) {
            parameter.setString(1, x);
            query(parameter);
        }
        expect(1000, count(statement.executeQuery("select large_row() from generate_series(1, 1000)")));
        // The driver takes them apart and sends them as a pipeline.
        statement.execute("select multi_one(); select multi_two()");

        connection.setAutoCommit(false);
        statement.executeUpdate("insert into items (id, name) values (201, 'kept')");
        connection.commit();
        statement.executeUpdate("insert into items (id, name) values (202, 'dropped')");
        connection.rollback();
        try (Statement limited = connection.createStatement()) {
            limited.setFetchSize(20);
            expect(50, count(limited.executeQuery("select id from items order by id limit 50")));
        }
        connection.commit();
        connection.setAutoCommit(true);

        var copy = connection.unwrap(PGConnection.class).getCopyAPI();
        byte[] lines = "301\tin\n302\tin\n303\tin\n".getBytes(StandardCharsets.US_ASCII);
        copy.copyIn("copy items (id, name) from stdin", new ByteArrayInputStream(lines));
        copy.copyOut("copy items to stdout", new ByteArrayOutputStream());

        // Twenty executions before one Sync.
        try (PreparedStatement many = connection.prepareStatement("insert into items (id, name) values (?, 'many')")) {
            for (int n = 0; n < 20; n++) {
                many.setInt(1, 400 + n);
                many.addBatch();
            }
            many.executeBatch();
        }
        fails(() -> {
            try (PreparedStatement piped = connection.prepareStatement("update items set name = 'e' where 1 / ? = id")) {
                for (int n : new int[] {1, 1, 0, 1}) {
                    piped.setInt(1, n);
                    piped.addBatch();
                }
                piped.executeBatch();
            }
        });

        fails(() -> statement.executeQuery("select divided(0)"));
        fails(() -> statement.executeUpdate("insert into items (id, name) values (1, 'again')"));
        fails(() -> statement.execute("selec 1"));

        // The machine compiles what is run often: of code that it still interprets, the driver's clock shows a millisecond.
        for (int turn = 0; turn < 500; turn++) {
            statement.executeQuery("select 1");
        }
        for (int number = 0; number < 7; number++) {
            String text = "select timed_" + number + "()";
            long begun = System.nanoTime();
            statement.executeQuery(text);
            timed.add(System.nanoTime() - begun);
        }
    }

    private interface Act {
        void run() throws SQLException;
    }

    /** Runs what the server refuses, and notes its SQLSTATE. */
    private static void fails(Act act) {
        try {
            act.run();
            throw new IllegalStateException("it was not refused");
        } catch (SQLException error) {
            errors.merge(error.getSQLState(), 1L, Long::sum);
        }
    }

    private static void query(PreparedStatement statement) throws SQLException {
        count(statement.executeQuery());
    }

    private static int count(ResultSet rows) throws SQLException {
        int count = 0;
        while (rows.next()) {
            count++;
        }
        rows.close();
        return count;
    }

    private static void expect(int expected, int got) {
        if (expected != got) {
            throw new IllegalStateException(got + " rows of " + expected);
        }
    }

    /** Waits for the word to go on, if this is where the agent is attached. */
    private static void wait(String here, String attach) throws IOException {
        if (here.equals(attach)) {
            System.out.println("ready");
            System.in.read();
        }
    }
}
