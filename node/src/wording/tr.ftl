voice-call = { $name } arıyor
video-call = { $name } görüntülü arıyor
message =
    { $count ->
        [one] { $name } bir ileti gönderdi
       *[other] { $name } { $count } ileti gönderdi
    }
missed-call =
    { $count ->
        [one] Cevapsız çağrı: { $name }
       *[other] { $count } cevapsız çağrı: { $name }
    }
contact-request = { $name } sizi kişilerine eklemek istiyor
voicemail =
    { $count ->
        [one] { $name } sesli mesaj bıraktı
       *[other] { $name } { $count } sesli mesaj bıraktı
    }
file =
    { $count ->
        [one] { $name } size bir dosya gönderiyor
       *[other] { $name } size { $count } dosya gönderiyor
    }
mail = E-posta: { $name }
self-test = Deneme bildirimi ulaştı
notice = { $name } için yeni bir bildirim var
shown-on = { $event } ({ $device } cihazında gösteriliyor)
accept = Kabul et
decline = Reddet
