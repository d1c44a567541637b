import java.io.IOException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.Stat;

/**
 * Sessions of ZooKeeper's own Java client that read, write and create while servers are restarted under them, until
 * standard input ends. One line for each event: READY, DONE n (operations so far), LOSS ms ms port (a connection loss:
 * when the operation began, when it was lost, and the port that the client was connected to as it began, 0: none),
 * FAILED text (anything else), END.
 */
public class RollingClient {
    private static final Pattern PORT = Pattern.compile("remoteserver:[^ ]*:(\\d+)");
    private static final AtomicLong done = new AtomicLong();
    private static volatile boolean stop = false;

    public static void main(String[] args) throws Exception {
        int sessions = Integer.parseInt(args[1]);
        CountDownLatch ready = new CountDownLatch(sessions);
        Thread[] threads = new Thread[sessions];
        for (int i = 0; i < sessions; i++) {
            int number = i;
            threads[i] = new Thread(() -> live(args[0], number, ready));
            threads[i].start();
        }
        ready.await();
        say("READY");
        while (System.in.read() >= 0) {
            say("DONE " + done.get());
        }
        stop = true;
        for (Thread thread : threads) {
            thread.join();
        }
        say("END");
        System.exit(0);
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    private interface Operation {
        void run() throws KeeperException, InterruptedException;
    }

    private static void live(String servers, int number, CountDownLatch ready) {
        try {
            CountDownLatch connected = new CountDownLatch(1);
            Watcher watcher = event -> {
                switch (event.getState()) {
                    case SyncConnected -> connected.countDown();
                    case Expired -> say("FAILED java session " + number + " expired");
                    default -> { }
                }
            };
            ZooKeeper zk = new ZooKeeper(servers, 10_000, watcher);
            connected.await();
            long session = zk.getSessionId();
            String own = "/rolling/java-" + number;
            zk.create(own, new byte[0], Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            zk.create(own + "/mine", new byte[0], Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
            ready.countDown();
            while (!stop) {
                attempt(zk, number, () -> zk.setData(own, new byte[] {1}, -1));
                attempt(zk, number, () -> zk.getData(own, false, null));
                attempt(zk, number, () -> zk.exists(own + "/mine", false));
                attempt(zk, number, () -> zk.getChildren("/rolling", false));
                attempt(zk, number, () ->
                    zk.create(own + "/s-", new byte[0], Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL_SEQUENTIAL));
            }
            Stat mine = zk.exists(own + "/mine", false);
            if (zk.getSessionId() != session || mine == null || mine.getEphemeralOwner() != session) {
                say("FAILED java session " + number + " was lost: " + mine);
            }
            zk.close();
        } catch (IOException | KeeperException | InterruptedException e) {
            say("FAILED java session " + number + ": " + e);
            ready.countDown();
        }
    }

    private static void attempt(ZooKeeper zk, int number, Operation operation) {
        Matcher connected = PORT.matcher(zk.toString());
        String port = connected.find() ? connected.group(1) : "0";
        long begun = System.currentTimeMillis();
        try {
            operation.run();
            done.incrementAndGet();
        } catch (KeeperException.ConnectionLossException e) {
            say("LOSS " + begun + " " + System.currentTimeMillis() + " " + port);
        } catch (KeeperException | InterruptedException e) {
            say("FAILED java session " + number + ": " + e);
        }
    }
}
