import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.zip.CRC32;

/**
 * An order book: orders by number and by time, customers with their orders, documents as bytes.
 *
 * A request takes a range of time, groups its orders by customer, sums them up, and reads the
 * documents of the best customers.
 */
public final class OrderBook {
    private static final int CUSTOMERS = 8_000;
    private static final int ORDERS = 240_000;
    private static final int DOCUMENT_BYTES = 4_000;
    private static final int RANGE = 100_000;
    private static final int BEST = 3_000;

    private record Order(int number, Customer customer, long time, int cents, String note) {}

    private static final class Customer {
        final String name;
        final byte[] document = new byte[DOCUMENT_BYTES];
        final List<Order> orders = new ArrayList<>();

        Customer(int number, Random random) {
            name = "customer " + number;
            random.nextBytes(document);
        }
    }

    private final Map<Integer, Order> byNumber = new HashMap<>();
    private final TreeMap<Long, Order> byTime = new TreeMap<>();

    private OrderBook() {
        Random random = new Random(1);
        Customer[] customers = new Customer[CUSTOMERS];
        for (int number = 0; number < CUSTOMERS; number++) {
            customers[number] = new Customer(number, random);
        }
        for (int number = 0; number < ORDERS; number++) {
            Customer customer = customers[random.nextInt(CUSTOMERS)];
            Order order = new Order(number, customer, number * 1000L + random.nextInt(1000),
                random.nextInt(100_000), "note " + Integer.toHexString(random.nextInt()));
            byNumber.put(number, order);
            byTime.put(order.time(), order);
            customer.orders.add(order);
        }
    }

    private long serve(long seed) {
        Random random = new Random(seed);
        long first = random.nextInt(ORDERS - RANGE) * 1000L;
        Map<Customer, Long> sums = byTime.subMap(first, first + RANGE * 1000L).values().stream()
            .collect(Collectors.groupingBy(Order::customer, Collectors.summingLong(Order::cents)));
        List<Map.Entry<Customer, Long>> best = new ArrayList<>(sums.entrySet());
        best.sort(Map.Entry.<Customer, Long>comparingByValue().reversed()
            .thenComparing(entry -> entry.getKey().name, Comparator.naturalOrder()));
        CRC32 checksum = new CRC32();
        for (Map.Entry<Customer, Long> entry : best.subList(0, BEST)) {
            Customer customer = entry.getKey();
            checksum.update((customer.name + entry.getValue()).getBytes());
            checksum.update(customer.document);
            for (Order order : customer.orders) {
                checksum.update(order.note().getBytes());
            }
        }
        for (int count = 0; count < 30_000; count++) {
            checksum.update(byNumber.get(random.nextInt(ORDERS)).note().getBytes());
        }
        return checksum.getValue();
    }

    public static void main(String[] arguments) throws IOException {
        OrderBook book = new OrderBook();
        System.out.println("ready");
        BufferedReader console = new BufferedReader(new InputStreamReader(System.in));
        for (String line = console.readLine(); line != null; line = console.readLine()) {
            long seed = Long.parseLong(line.split(" ")[1]);
            System.out.println("done " + seed + " " + book.serve(seed));
        }
    }
}
