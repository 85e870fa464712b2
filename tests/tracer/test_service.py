# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.service import (
    MAX_ATTRIBUTES,
    MAX_NAME_CHARS,
    Grouping,
    ResourceVariableError,
    command,
    mounted_container,
    parse_resource_attributes,
    program_name,
    read_grouping,
    service_name,
)

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
UID = "5a3f0c1e-8d0f-4f3b-9c55-0a1b2c3d4e5f"


class TestResourceAttributes:
    def test_pairs_are_decoded_and_trimmed(self):
        text = "service.name=shop, deployment.environment.name = a%2Cb%3Dc ,team=%C3%A9"
        assert parse_resource_attributes(text) == {
            "service.name": "shop",
            "deployment.environment.name": "a,b=c",
            "team": "é",
        }

    def test_empty_variable_and_stray_commas_say_nothing(self):
        assert parse_resource_attributes("") == {}
        assert parse_resource_attributes(" ,, ") == {}
        assert parse_resource_attributes("a=1,") == {"a": "1"}

    def test_value_may_be_empty_or_hold_an_equals_sign(self):
        assert parse_resource_attributes("a=,b=x=y") == {"a": "", "b": "x=y"}

    @pytest.mark.parametrize(
        "bad",
        ["novalue", "=x", "a=%zz", "a=%4", "a=%ff", "%=a", ",".join(f"k{n}=v" for n in range(129))],
    )
    def test_one_bad_pair_voids_the_whole_variable(self, bad):
        assert bad.count(",") in {0, MAX_ATTRIBUTES}
        with pytest.raises(ResourceVariableError):
            parse_resource_attributes("service.name=shop," + bad)

    @given(st.text())
    def test_any_text_is_read_or_refused(self, text):
        with contextlib.suppress(ResourceVariableError):
            assert len(parse_resource_attributes(text)) <= MAX_ATTRIBUTES


class TestContainer:
    @pytest.mark.parametrize(
        "path",
        [
            f"/kubepods/burstable/pod{UID}/{ID}",
            f"/kubepods/pod{UID}/{ID}",
            f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope",
            f"/system.slice/containerd.service/kubepods-burstable-pod{UID}.slice:cri-containerd:{ID}",
        ],
    )
    def test_kubernetes_paths_name_container_and_pod(self, path):
        assert read_grouping(f"0::{path}\n") == Grouping(ID, UID, "")

    @pytest.mark.parametrize(
        "path",
        [
            f"/docker/{ID}",
            f"/system.slice/docker-{ID}.scope",
            f"/machine.slice/libpod-{ID}.scope",
            f"/machine.slice/libpod-{ID}.scope/container",
            f"/../cri-containerd-{ID}.scope",
            f"/ecs/0123456789abcdef0123456789abcdef/{ID}",
        ],
    )
    def test_other_runtimes_name_the_container(self, path):
        assert read_grouping(f"0::{path}\n") == Grouping(ID, "", "")

    def test_nested_containers_take_the_last(self):
        path = f"/docker/{OTHER}/kubelet/kubepods/besteffort/pod{UID}/{ID}"
        assert read_grouping(f"0::{path}\n").container_id == ID

    @pytest.mark.parametrize(
        "path",
        [
            "/user.slice/user-1000.slice/session-3.scope",
            f"/machine.slice/libpod-conmon-{ID}.scope",
            f"/kubepods.slice/crio-conmon-{ID}.scope",
            f"/docker/{ID[:-1]}",
            f"/docker/{ID}0",
            f"/docker/{ID.upper()}",
            "/init.scope",
            "/",
        ],
    )
    def test_what_is_no_container_is_not_taken_for_one(self, path):
        assert read_grouping(f"0::{path}\n").container_id == ""

    def test_hierarchies_of_version_1_are_joined(self):
        text = f"12:pids:/docker/{ID}\n4:memory:/\n1:name=systemd:/docker/{ID}\n0::/\n"
        assert read_grouping(text) == Grouping(ID, "", "")

    @pytest.mark.parametrize(
        "path",
        [
            f"/var/lib/docker/containers/{ID}/hostname",
            f"/var/lib/containers/storage/overlay-containers/{ID}/userdata/hostname",
        ],
    )
    def test_mounts_tell_where_the_cgroup_is_hidden(self, path):
        line = f"712 688 254:1 {path} /etc/hostname rw - ext4 /dev/x rw"
        assert mounted_container("22 1 0:5 / /proc rw\n" + line) == ID

    def test_mounts_elsewhere_are_not_the_process_s_own(self):
        line = f"712 688 254:1 / /var/lib/docker/containers/{ID}/mounts/shm rw - tmpfs shm rw"
        assert mounted_container(line) == ""


class TestUnit:
    @pytest.mark.parametrize(
        ("path", "unit"),
        [
            ("/system.slice/nginx.service", "nginx"),
            (
                "/system.slice/system-postgresql.slice/postgresql@15-main.service",
                "postgresql@15-main",
            ),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service", "shop"),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/vte.scope", ""),
            (r"/system.slice/my\x2dshop.service", "my-shop"),
            ("/system.slice/run-r7c21.service", ""),
            ("/system.slice/run-u12.service", ""),
            ("/system.slice/run-queue.service", "run-queue"),
            (f"/system.slice/containerd.service/pod.slice:cri-containerd:{ID}", ""),
            (f"/system.slice/docker-{ID}.scope/system.slice/nginx.service", "nginx"),
        ],
    )
    def test_service_names_the_unit_and_a_session_does_not(self, path, unit):
        assert read_grouping(f"0::{path}\n").unit == unit


class TestProgram:
    @pytest.mark.parametrize(
        ("executable", "line", "name"),
        [
            ("nginx", "nginx: worker process", "nginx"),
            ("curl", "curl http://localhost/", "curl"),
            ("python3.11", "python3 -m http.server 8000", "http.server"),
            ("python3.11", "python3 -X dev -u /srv/shop/orders.py --key hunter2", "orders"),
            ("python3", "/usr/bin/python3 /usr/bin/gunicorn shop:app", "gunicorn"),
            ("python3", "python3 /srv/shop/__main__.py", "shop"),
            ("python3", "python3 -c import\\ this", "python3"),
            ("python3", "python3", "python3"),
            ("pypy3", "pypy3 app.py", "app"),
            ("node", "node --require ./otel.js server.js", "server"),
            ("node", "node --max-old-space-size=4096 /srv/checkout.mjs", "checkout"),
            ("node", "node -e 1", "node"),
            (
                "java",
                "java -Xmx1g -jar /opt/shop-cart-3.1.0-SNAPSHOT.jar --server.port=1",
                "shop-cart",
            ),
            ("java", "java -cp a.jar:b.jar -Dx=y org.apache.Kafka server.properties", "Kafka"),
            ("java", "java -m shop.cart/com.shop.Cart", "Cart"),
            ("ruby", "ruby /srv/bin/rails server", "rails"),
            ("perl", "perl -w report.pl", "report"),
            ("php8.2", "php -d x=1 worker.php", "worker"),
            ("dotnet", "dotnet Shop.Cart.dll", "Shop.Cart"),
        ],
    )
    def test_interpreter_is_called_by_what_it_runs(self, executable, line, name):
        argv = [part.replace("\\ ", " ") for part in line.replace("\\ ", "\0").split(" ")]
        argv = [part.replace("\0", " ") for part in argv]
        assert program_name(executable, argv) == name

    @pytest.mark.parametrize(
        ("executable", "argv"),
        [
            ("python3", ["python3", "hunter2"]),
            ("node", ["node", "--title", "hunter2"]),
            ("java", ["java", "hunter2"]),
            ("java", ["java", "-jar"]),
            ("curl", ["curl", "-u", "me:hunter2"]),
        ],
    )
    def test_argument_that_does_not_look_like_a_program_is_not_told(self, executable, argv):
        assert program_name(executable, argv) == executable

    def test_title_names_the_program_whose_arguments_it_overwrote(self):
        assert program_name("python3", ["gunicorn: master [shop:app]"]) == "gunicorn"
        assert program_name("ruby3.1", ["puma 5.6.5 (tcp://0.0.0.0:3000) [shop]"]) == "puma"
        assert program_name("python3", [""]) == "python3"

    @given(st.lists(st.text(), max_size=4))
    def test_whatever_a_program_calls_itself_is_survived(self, argv):
        for executable in ("python3", "node", "java", "ruby", "perl", "php", "dotnet", "x"):
            assert program_name(executable, [" ", *argv])
            assert program_name(executable, argv)
            command(executable, [" ", *argv])


class TestCommand:
    def test_command_is_argv0_alone(self):
        assert command("curl", ["/usr/bin/curl", "-u", "me:hunter2"]) == "/usr/bin/curl"
        assert command("curl", []) == ""

    def test_title_is_cut_behind_its_first_word(self):
        assert command("python3", ["celery -b redis://:hunter2@cache"]) == "celery"
        assert command("nginx", ["nginx: worker process"]) == "nginx:"
        assert command("x", [" "]) == ""

    def test_path_with_spaces_stays_whole(self):
        assert command("my app", ["/opt/my app"]) == "/opt/my app"


KNOWN = {
    "configured": "configured",
    "environ": {"OTEL_SERVICE_NAME": "own"},
    "attributes": {"service.name": "attribute"},
    "unit": "unit",
    "program": "program",
    "comm": "comm",
}


class TestServiceName:
    def test_each_source_gives_way_to_those_before_it(self):
        order = [
            ("configured", "", "configured"),
            ("environ", {}, "own"),
            ("attributes", {}, "attribute"),
            ("unit", "", "unit"),
            ("program", "", "program"),
            ("comm", "", "unknown_service:comm"),
        ]
        known = dict(KNOWN)
        for source, nothing, expected in order:
            assert service_name(**known) == expected
            known[source] = nothing
        assert service_name(**known) == "unknown_service:unknown"

    def test_reference_left_by_kubernetes_is_no_name(self):
        known = KNOWN | {"configured": "", "environ": {"OTEL_SERVICE_NAME": "$(APP)"}}
        assert service_name(**known) == "attribute"

    def test_name_is_bounded(self):
        assert len(service_name(environ={}, attributes={}, unit="x" * 1000)) == MAX_NAME_CHARS


@pytest.mark.parametrize(
    ("executable", "argv", "comm", "name"),
    [
        ("redis-check-rdb", ["redis-server *:6379"], "redis-server", "redis-server"),
        ("busybox", ["httpd", "-f"], "httpd", "httpd"),
        ("mariadbd", ["/usr/sbin/mysqld", "--user=mysql"], "mysqld", "mysqld"),
        ("multi", ["/bin/a-very-long-program-name"], "a-very-long-pro", "a-very-long-program-name"),
        ("worker", ["token=secret"], "pool", "worker"),
        ("postgres", ["postgres: shop"], "postgres", "postgres"),
        ("worker", [], "other", "worker"),
    ],
)
def test_program_with_several_names_has_the_one_it_was_called_by(executable, argv, comm, name):
    assert program_name(executable, argv, comm) == name
